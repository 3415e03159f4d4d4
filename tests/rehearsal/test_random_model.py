"""Models with random weights have the real architecture's size, and a tokenizer that fills its vocabulary."""

from pathlib import Path

import pytest
import torch

from recipe.critic_r1.rehearsal.architectures import PUBLISHED, architecture, published, shipped
from recipe.critic_r1.rehearsal.random_model import make_model

PARAMETERS = {"qwen2_5_vl_3b": 3_754_622_976, "qwen2_5_vl_7b": 8_292_166_656, "qwen3_vl_8b": 8_767_123_696}
"""Of the published checkpoints."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_architecture_has_the_published_size(name: str) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**architecture(name)))
    model.tie_weights()
    assert sum(weight.numel() for weight in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["tiny_qwen2_5_vl", "tiny_qwen3_vl"])
def test_a_made_folder_is_one_that_transformers_loads(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = make_model(architecture(name), tmp_path / name)
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert len(processor.tokenizer) == model.get_input_embeddings().num_embeddings
    assert processor.tokenizer.convert_tokens_to_ids("<|image_pad|>") == model.config.image_token_id


def test_a_name_that_is_neither_is_refused_with_those_that_ship() -> None:
    with pytest.raises(ValueError, match="qwen2_5_vl_7b"):
        architecture("qwen9")


def test_another_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mllama"):
        make_model({"model_type": "mllama"}, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_shipped_architectures_are_json_of_a_known_family() -> None:
    assert {architecture(name)["model_type"] for name in shipped()} == {"qwen2_5_vl", "qwen3_vl"}


def test_published_models_have_an_architecture_and_others_none() -> None:
    assert all(published(model) == architecture(name) for model, name in PUBLISHED.items())
    assert published("nobody/nothing") is None
