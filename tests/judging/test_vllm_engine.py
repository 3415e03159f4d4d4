"""The engine in this process: that it reads what verl trains on, and that its samples are its own."""

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recipe.critic_r1.judging.generation import GenerationRequest, Message, Sampling, TextPart, messages_from_row

pytestmark = pytest.mark.e2e

ROW = [{"role": "user", "content": "<image>What digit is shown?"}]


def png(image: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(image).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def request(image: int, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(messages_from_row(ROW, [{"bytes": png(image)}]), Sampling(max_tokens=12, **sampling))


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Any:
    from recipe.critic_r1.judging.vllm_engine import VllmEngine

    return VllmEngine(tiny_model)


def test_the_prompt_is_the_one_of_training(engine: Any) -> None:
    """Token by token what verl's dataset and rollout make of the same row."""
    from transformers import AutoProcessor
    from verl.utils.dataset.rl_dataset import RLHFDataset
    from verl.workers.rollout.utils import qwen2_5_vl_dedup_image_tokens

    processor = AutoProcessor.from_pretrained(engine.model_dir)
    image = {"type": "image", "image": Image.open(io.BytesIO(png(0)))}
    chat = [{"role": "user", "content": [image, {"type": "text", "text": "What digit is shown?"}]}]
    images, _ = asyncio.run(RLHFDataset.process_vision_info(chat, image_patch_size=14, config=None))
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    trained = list(processor(text=[text], images=images)["input_ids"][0])
    assert engine.token_ids(request(0).messages) == qwen2_5_vl_dedup_image_tokens(trained, processor)
    assert engine.generate([request(0)])[0].prompt_tokens == len(trained)


def test_answers_keep_their_order_and_their_number(engine: Any) -> None:
    one, many = engine.generate([request(0), request(1, temperature=1.0, n=5, seed=3)])
    assert (len(one.texts), len(many.texts)) == (1, 5)
    assert len(many.finish_reasons) == 5
    assert len(set(many.texts)) > 1


def test_a_seeded_sample_does_not_depend_on_its_company(engine: Any) -> None:
    alone = engine.generate([request(2, temperature=1.0, n=4, seed=9)])[0]
    crowd = engine.generate([request(i, temperature=1.0, n=4, seed=9) for i in range(60)])
    assert crowd[2].texts == alone.texts


def test_a_prompt_that_is_too_long_is_a_failure_of_its_own(engine: Any) -> None:
    long = GenerationRequest((Message("user", (TextPart("7 " * 400),)),), Sampling(max_tokens=4))
    failed, fine = engine.generate([long, request(0)])
    assert "the model takes 256" in failed.error
    assert fine.error is None
