"""Rehearsed rows have exactly the sizes that the configuration allows at most."""

import io
from pathlib import Path

import PIL.Image
import pyarrow.parquet as pq
import pytest

from data_prep.lengths.meter import real_length
from data_prep.lengths.processor import load_processor
from recipe.critic_r1.rehearsal.architectures import architecture
from recipe.critic_r1.rehearsal.limit_tasks import write_limit_tasks
from recipe.critic_r1.rehearsal.random_model import make_model
from recipe.critic_r1.train import compose_config

CASES = [
    ("r1", "tiny_qwen2_5_vl", [], 2048),  # the release's limits
    ("r1_qwen3_vl_8b", "tiny_qwen3_vl", [], 2048),
    ("r1", "tiny_qwen2_5_vl", ["+sizes=tiny"], 224),
    ("r1", "tiny_qwen2_5_vl", ["data.max_prompt_length=1000"], 872),  # an image at the pixel limit has 5,329 tokens
]


@pytest.mark.parametrize(("name", "tiny", "changed", "side"), CASES)
def test_prompts_and_images_are_at_their_limits(
    name: str, tiny: str, changed: list[str], side: int, tmp_path: Path
) -> None:
    model, config = make_model(architecture(tiny), tmp_path / "model"), compose_config(name, changed)
    limits = write_limit_tasks(model, config, 2, tmp_path / "data")
    assert (limits.side, limits.prompt_tokens) == (side, config.data.max_prompt_length)
    rows = pq.read_table(tmp_path / "data" / "train-00000.parquet").to_pylist()
    assert len(rows) == 2
    assert len({row["images"][0]["bytes"] for row in rows}) == len({row["prompt"][0]["content"] for row in rows}) == 2
    processor = load_processor(str(model), **config.data.mm_processor_kwargs)
    for row in rows:
        image = PIL.Image.open(io.BytesIO(row["images"][0]["bytes"]))
        assert image.size == (side, side)
        assert real_length(processor, row["prompt"][0]["content"], [image]) == config.data.max_prompt_length


def test_a_prompt_limit_without_room_is_refused(tmp_path: Path) -> None:
    model = make_model(architecture("tiny_qwen2_5_vl"), tmp_path / "model")
    with pytest.raises(ValueError, match="max_prompt_length=5 leaves no room"):
        write_limit_tasks(model, compose_config("r1", ["data.max_prompt_length=5"]), 1, tmp_path / "data")
