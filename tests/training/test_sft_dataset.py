"""The supervised ablation reads the Parquet files of GRPO: only the verdict is learnt, images keep their limits."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig

from data_prep.tasks.pairwise import SCHEMA, Image, PreferencePair, PreferenceTask
from recipe.critic_r1.demo.model import IMAGE_PAD, IMAGE_SIDE
from recipe.critic_r1.train import compose_config


def data_config(*overrides: str) -> DictConfig:
    data: DictConfig = compose_config("critic_sft", overrides).data
    return data


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    from io import BytesIO

    import PIL.Image

    file = BytesIO()
    PIL.Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE)).save(file, "PNG")
    pair = PreferencePair("digits", (Image(file.getvalue()),), "Which digit?", ("7", "3"), 0)
    records = [PreferenceTask(pair, order=order, index=order).row() for order in (0, 1)]
    pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), tmp_path / "train.parquet")
    return tmp_path / "train.parquet"


def test_verls_class_finds_it_and_learns_the_verdict_alone(tiny_model: Path, rows: Path) -> None:
    from transformers import AutoProcessor
    from verl.trainer.sft_trainer import create_sft_dataset

    config = data_config("data.mm_processor_kwargs.min_pixels=3136", "data.mm_processor_kwargs.max_pixels=3136")
    processor = AutoProcessor.from_pretrained(tiny_model)
    dataset = create_sft_dataset(str(rows), config, processor.tokenizer, processor)
    assert [type(dataset).__name__, len(dataset)] == ["CriticSFTDataset", 2]
    for index, label in enumerate(("1", "2")):
        row = dataset[index]
        learnt = processor.tokenizer.decode(row["input_ids"][row["loss_mask"].bool()])
        assert learnt.replace("<|im_end|>", "").strip() == f"\\boxed{{{label}}}"
        assert "Which digit?" in processor.tokenizer.decode(row["input_ids"])


@pytest.mark.parametrize(("limit", "tokens"), [(3136, 4), (12544, 16)])
def test_a_image_keeps_the_limits_of_the_configuration(tiny_model: Path, rows: Path, limit: int, tokens: int) -> None:
    from transformers import AutoProcessor
    from verl.trainer.sft_trainer import create_sft_dataset

    limits = [f"data.mm_processor_kwargs.{end}_pixels={limit}" for end in ("min", "max")]
    processor = AutoProcessor.from_pretrained(tiny_model)
    row = create_sft_dataset(str(rows), data_config(*limits), processor.tokenizer, processor)[0]
    token = processor.tokenizer.convert_tokens_to_ids(IMAGE_PAD)
    assert (row["input_ids"] == token).sum() == tokens
