"""What can be known to fail is refused before Ray starts, with file, row and remedy."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from data_prep.task import SCHEMA, Picture, PolicyTask, PreferencePair, PreferenceTask
from recipe.critic_r1 import preflight

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8ffff3f0005fe02fe0def46b8"
    "0000000049454e44ae426082"
)


def rows(n: int) -> list[dict]:
    return [
        PreferenceTask(
            PreferencePair("digits", (Picture(PNG),), f"Question {i}?", ("7", "3"), 0), order=i % 2, index=i
        ).row()
        for i in range(n)
    ]


def write(path: Path, records: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), path)
    return path


@pytest.fixture
def good(tmp_path: Path) -> dict[str, str]:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (model / name).write_text("{}")
    return {
        "data.train_files": str(write(tmp_path / "train.parquet", rows(32))),
        "data.val_files": str(write(tmp_path / "val.parquet", rows(2))),
        "actor_rollout_ref.model.path": str(model),
        "critic_r1.run_dir": str(tmp_path / "run"),
        "critic_r1.min_free_memory_gb": "0.1",
    }


def config(given: dict[str, str]) -> DictConfig:
    with initialize_config_module("recipe.critic_r1.config", version_base=None):
        return compose("demo", overrides=[f"{key}={value}" for key, value in given.items()])


def test_a_good_run_passes(good: dict[str, str]) -> None:
    assert {finding.status for finding in preflight.check(config(good))} == {"pass"}


def no_file(folder: Path) -> str:
    return str(folder / "absent.parquet")


def not_parquet(folder: Path) -> str:
    path = folder / "cut.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    return str(path)


def empty(folder: Path) -> str:
    return str(write(folder / "empty.parquet", []))


def bad_label(folder: Path) -> str:
    records = rows(32)
    records[7]["reward_model"]["ground_truth"] = "first"
    return str(write(folder / "label.parquet", records))


def bad_picture(folder: Path) -> str:
    records = rows(32)
    records[9]["images"] = [{"bytes": PNG[:40], "path": None}]
    return str(write(folder / "picture.parquet", records))


def missing_picture(folder: Path) -> str:
    records = rows(32)
    records[3]["images"] = []
    return str(write(folder / "markers.parquet", records))


def too_few(folder: Path) -> str:
    return str(write(folder / "few.parquet", rows(3)))


def no_answer(folder: Path) -> str:
    records = [*rows(31), PolicyTask("digits", (Picture(PNG),), "Which?", "").row()]
    return str(write(folder / "answer.parquet", records))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_file, [r"absent\.parquet", "no such file", "critic-r1 prepare"]),
        (not_parquet, [r"cut\.parquet", "not a readable Parquet file"]),
        (empty, [r"empty\.parquet", "row"]),
        (bad_label, [r"label\.parquet, row 7", "first"]),
        (bad_picture, [r"picture\.parquet, row 9"]),
        (missing_picture, [r"markers\.parquet, row 3"]),
        (too_few, ["3 training rows", "train_batch_size"]),
        (no_answer, [r"answer\.parquet, row 31"]),
    ],
)
def test_bad_data_is_named(good: dict[str, str], tmp_path: Path, make, said: list[str]) -> None:
    good["data.train_files"] = make(tmp_path)
    with pytest.raises(preflight.PreflightError) as error:
        preflight.check(config(good))
    for pattern in said:
        assert error.match(pattern)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("critic_r1.min_free_memory_gb", "1000000", "host memory: .* free, 1000000 GB needed"),
        ("actor_rollout_ref.model.path", "/no/such/model", "/no/such/model is not a folder"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", "5", "not a multiple of actor.ppo_mini_batch_size=5"),
        ("actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu", "100", "256 do not divide into micro-batches of 100"),
        ("trainer.n_gpus_per_node", "3", r"micro-batches of 128 on 3 worker\(s\)"),
        ("data.max_response_length", "4000", "more than rollout.max_model_len"),
        ("critic_r1.run_dir", "/proc/run", "/proc/run cannot be written"),
    ],
)
def test_a_setting_that_cannot_work_is_named(good: dict[str, str], key: str, value: str, said: str) -> None:
    with pytest.raises(preflight.PreflightError, match=said):
        preflight.check(config(good | {key: value}))


def test_a_missing_value_is_named(good: dict[str, str]) -> None:
    del good["data.val_files"]
    with pytest.raises(preflight.PreflightError, match=r"data\.val_files has no value"):
        preflight.check(config(good))


def test_a_prompt_that_was_measured_too_long_is_named(good: dict[str, str], tmp_path: Path) -> None:
    records = rows(32)
    records[5]["extra_info"]["prompt_tokens"] = 65
    good["data.train_files"] = str(write(tmp_path / "long.parquet", records))
    with pytest.raises(preflight.PreflightError, match=r"long\.parquet: the longest prompt has 65 tokens"):
        preflight.check(config(good))


def test_another_verl_is_refused(good: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipe.critic_r1.compat.VERL", "0.1.0")
    with pytest.raises(preflight.PreflightError, match=r"verl 0\.9\.1 is installed.*verl 0\.1\.0"):
        preflight.check(config(good))
