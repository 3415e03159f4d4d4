"""Mllama on the shared path: its mask over the images is as long as prompt and response together.

verl 0.9.1 builds that mask from the decoded text, from which it has taken the image tokens, and so gets one that sees
no image at all; what is compared here is the processor's own output for the whole text.
"""

import pickle
from typing import Any

import pytest
import torch
from verl.workers.engine.fsdp import transformer_impl

from recipe.critic_r1.images import encoded as images_inputs
from recipe.critic_r1.images import engine as _pads_masks  # noqa: F401
from recipe.critic_r1.images.dataset import EncodedImageDataset
from recipe.critic_r1.images.encoded import CROSS_ATTENTION, PIXELS, ImageInputs, PixelSettings, followed_by
from tests.data_prep.made_processors import make_processor
from tests.images.test_encoded import item, photo

RESPONSES = ("", " better", " which response is better, given the image?")
IMAGES = [(300, 200), (90, 400)]


@pytest.fixture(scope="module")
def processor() -> Any:
    return make_processor("mllama")


def processed(processor: Any, files: list[bytes], response: str) -> dict[str, torch.Tensor]:
    content = [{"type": "image"} for _ in files] + [{"type": "text", "text": "which is better?"}]
    chat = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) + response
    images = [{"role": "user", "content": [item(data) for data in files]}]
    images, _, _ = EncodedImageDataset._process_multi_modal_info(images, 14, None)
    return {name: torch.as_tensor(value) for name, value in processor(text=[text], images=images).items()}


def shared(processor: Any, files: list[bytes], response: str) -> ImageInputs:
    """What our agent loop stores for a prompt and its response."""
    prompt, whole = processed(processor, files, ""), processed(processor, files, response)
    small = {name: value for name, value in prompt.items() if name not in (PIXELS, "input_ids", "attention_mask")}
    stored = ImageInputs(small, [item(data) for data in files], PixelSettings("mllama"))
    found = followed_by(stored, whole["input_ids"].shape[1] - prompt["input_ids"].shape[1])
    assert isinstance(found, ImageInputs)
    assert found.key == stored.key  # the rollouts of a prompt share their pixels
    return pickle.loads(pickle.dumps(found))


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize("shapes", [IMAGES[:1], IMAGES])
def test_a_rollout_has_what_the_processor_gives_for_the_whole_text(
    processor: Any, shapes: list, response: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_inputs, "_processor", lambda *where: processor)
    images_inputs.pixel_cache.cache_clear()
    files = [photo(*shape, seed) for seed, shape in enumerate(shapes)]
    whole = processed(processor, files, response)
    found = dict(shared(processor, files, response).items())
    assert set(found) == set(whole) - {"input_ids", "attention_mask"}
    assert all(torch.equal(value, whole[name]) for name, value in found.items())
    assert found[CROSS_ATTENTION][:, -1].any()


def test_rollouts_of_different_lengths_share_a_micro_batch(processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_inputs, "_processor", lambda *where: processor)
    files = [photo(300, 200)]
    rollouts = [shared(processor, files, response) for response in RESPONSES]
    joined = transformer_impl.extract_multi_modal_inputs(rollouts)
    longest = max(rollout[CROSS_ATTENTION].shape[1] for rollout in rollouts)
    assert joined[CROSS_ATTENTION].shape[:2] == (len(RESPONSES), longest)
    assert joined[PIXELS].shape[0] == len(RESPONSES)
    for row, rollout in zip(joined[CROSS_ATTENTION], rollouts, strict=True):
        mask = rollout[CROSS_ATTENTION][0]
        assert torch.equal(row[: len(mask)], mask)
        assert not row[len(mask) :].any()


def test_a_model_gives_each_rollout_of_a_micro_batch_its_own_log_probabilities(
    processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    monkeypatch.setattr(images_inputs, "_processor", lambda *where: processor)
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_global_layers": 1,
        "attention_heads": 2,
        "image_size": 224,
        "intermediate_size": 16,
        "vision_output_dim": 32,
        "intermediate_layers_indices": [0],
    }
    text = {
        "vocab_size": 600,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 16,
        "cross_attention_layers": [1],
        "pad_token_id": 5,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    model = MllamaForConditionalGeneration(MllamaConfig(vision_config=vision, text_config=text)).eval()
    with torch.no_grad():  # a new model's gates are closed: it would not look at the images
        for name, parameter in model.named_parameters():
            if "gate" in name and parameter.numel() == 1:
                parameter.fill_(1.0)
    files = [photo(300, 200)]
    wholes = [processed(processor, files, response) for response in RESPONSES]
    joined = transformer_impl.extract_multi_modal_inputs([shared(processor, files, r) for r in RESPONSES])
    ids = torch.nn.utils.rnn.pad_sequence([whole["input_ids"][0] for whole in wholes], batch_first=True)
    seen = torch.nn.utils.rnn.pad_sequence([torch.ones_like(w["input_ids"][0]) for w in wholes], batch_first=True)
    with torch.no_grad():
        together = model(input_ids=ids, attention_mask=seen, **joined).logits
        blind = model(**{**wholes[-1], CROSS_ATTENTION: torch.zeros_like(wholes[-1][CROSS_ATTENTION])}).logits
        for row, whole in zip(together, wholes, strict=True):
            alone = model(**whole).logits[0]
            torch.testing.assert_close(row[: len(alone)], alone, rtol=0, atol=1e-6)
    assert not torch.allclose(together[-1, : blind.shape[1]], blind[0], atol=1e-4)
