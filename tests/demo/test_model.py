"""The demo's model loads as any Qwen2.5-VL folder does."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, Qwen2_5_VLProcessor, Qwen2Tokenizer

from recipe.critic_r1.demo import phrases
from recipe.critic_r1.demo.model import SPECIAL_TOKENS, build_model
from recipe.critic_r1.demo.phrases import PLAIN

WHICH = "What digit is shown?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("model"), seed=0)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_the_auto_classes_find_the_qwen_classes(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor) is Qwen2_5_VLProcessor
    assert type(processor.tokenizer) is Qwen2Tokenizer
    assert type(AutoTokenizer.from_pretrained(folder)) is Qwen2Tokenizer


def test_vocabulary_has_no_row_that_the_tokenizer_lacks(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.config.text_config.vocab_size == len(tokenizer)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert model.get_output_embeddings().weight.shape[0] == len(tokenizer)
    assert model.dtype == torch.float32


def test_every_head_of_the_language_model_has_a_size_that_vllm_has_a_cpu_kernel_for(folder: Path) -> None:
    config = AutoModelForImageTextToText.from_pretrained(folder).config.text_config
    assert config.hidden_size // config.num_attention_heads == 32
    assert 2 * sum(config.rope_parameters["mrope_section"]) == 32


def test_special_tokens_are_single_ids_and_digits_too(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for token in (*SPECIAL_TOKENS, *"0123456789"):
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1, token
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.parametrize(
    "text",
    [
        phrases.policy_response("7", "7"),
        PLAIN.critic_response("0", ("1", "0"), "2"),
        PLAIN.critic_prompt(WHICH, ("3", "8")),
        "Größe: 12 px — not in the corpus 数",  # falls back to bytes
    ],
)
def test_text_survives_the_tokenizer(folder: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize(
    ("prompt", "length"), [(phrases.policy_prompt(WHICH), 19), (PLAIN.critic_prompt(WHICH, ("7", "3")), 38)]
)
def test_prompts_are_short_and_hold_four_image_tokens(folder: Path, prompt: str, length: int) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image"}, {"type": "text", "text": prompt.removeprefix("<image>")}]
    chat = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    assert chat.startswith("<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What digit")
    batch = processor(text=[chat], images=[Image.new("RGB", (56, 56))], return_tensors="pt")
    assert batch["input_ids"].shape == (1, length)
    assert (batch["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum() == 4
    assert batch["image_grid_thw"].tolist() == [[1, 4, 4]]


def test_template_takes_plain_text_and_a_system_turn_but_adds_none(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    )
    assert tokenizer.apply_chat_template(turns[1:], tokenize=False) == "<|im_start|>user\nHi<|im_end|>\n"


def test_seed_decides_the_weights(folder: Path, tmp_path: Path) -> None:
    assert digest(build_model(tmp_path / "same", seed=0)) == digest(folder)
    assert digest(build_model(tmp_path / "other", seed=1)) != digest(folder)


def test_building_leaves_the_callers_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)

    build_model(tmp_path, seed=0)
    assert torch.equal(torch.rand(1), expected)
