"""The release's limits for an image reach verl's prompts and vLLM alike: both count the tokens that the rule gives.

On the real processor class of Qwen2.5-VL with the demo's tiny model, whose own limits are far lower. If one place did
not get the limits, rollout engine and actor would see different images, and each would be consistent in itself.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from PIL import Image

from recipe.critic_r1.demo.model import IMAGE_PAD, build_model

ROOT = Path(__file__).parents[2]

# Width, height, and tokens of 28x28 pixels: a small image is enlarged to 262,144 pixels or more, a usual one is only
# rounded to whole tokens, a large one is shrunk to 4,194,304 pixels or fewer.
IMAGES = [((100, 100), 19 * 19), ((640, 480), 23 * 17), ((4000, 3000), 84 * 63)]


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    with initialize_config_module("recipe.critic_r1.config", version_base=None):
        config = compose("r1")
    return {
        "mm_processor_kwargs": OmegaConf.to_container(config.data.mm_processor_kwargs),
        "engine_kwargs": OmegaConf.to_container(config.actor_rollout_ref.rollout.engine_kwargs.vllm, resolve=True),
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("model"), seed=0)


def test_verl_builds_prompts_with_them(model: Path, settings: dict[str, Any]) -> None:
    from transformers import AutoProcessor
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    processor = AutoProcessor.from_pretrained(model)
    builder = create_continuous_token_builder(
        processor.tokenizer,
        hf_model_type="qwen2_5_vl",
        chat_template_kwargs={},
        mm_processor_kwargs=settings["mm_processor_kwargs"],
        processor=processor,
    )
    token = processor.tokenizer.convert_tokens_to_ids(IMAGE_PAD)
    for size, tokens in IMAGES:
        image = Image.new("RGB", size)
        turn = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "Which?"}]}
        inputs: dict[str, Any] = {}
        ids = builder.build_initial_tokens([turn], images=[image], mm_inputs_out=inputs)
        # The training inputs come out of the same call.
        assert (list(ids).count(token), inputs["image_grid_thw"].prod().item() // 4) == (tokens, tokens), size
        assert 262_144 <= tokens * 28 * 28 <= 4_194_304


def test_vllm_counts_the_same(model: Path, settings: dict[str, Any]) -> None:
    asked = {
        **settings,
        "model": str(model),
        "sizes": [size for size, _ in IMAGES],
        "image_token_id": json.loads((model / "config.json").read_text())["image_token_id"],
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.rollout.vllm_image_tokens"],
        input=json.dumps(asked),
        cwd=ROOT,
        env={**os.environ, "VERL_PLATFORM": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = [tokens for _, tokens in IMAGES for _ in range(2)]
    assert json.loads(done.stdout.splitlines()[-1]) == expected
