"""Data that cannot be trained on is named with its file and row."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from data_prep.sources import digits
from data_prep.tasks.ordering import preference_tasks
from data_prep.tasks.pairwise import Image, PolicyTask, PreferencePair, PreferenceTask
from data_prep.writer import write_parquet
from recipe.critic_r1 import preflight
from recipe.critic_r1.preflight import data_files
from tests.preflight.conftest import PNG, composed, demo, every_refusal_was_made, rows, write


def refused(good: dict[str, str], file: Path, said: list[str]) -> None:
    with pytest.raises(preflight.PreflightError) as error:
        preflight.check(demo(good | {"data.train_files": str(file)}))
    for pattern in said:
        assert error.match(pattern)


def test_a_file_that_is_absent_or_damaged_is_named(good: dict[str, str], tmp_path: Path) -> None:
    refused(good, tmp_path / "absent.parquet", [r"absent\.parquet", "no such file", "critic-r1 prepare"])
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and then nothing")
    refused(good, tmp_path / "cut.parquet", [r"cut\.parquet", "not a readable Parquet file"])


Rows = list[dict[str, Any]]


def every_label(rows: Rows) -> None:
    for row in rows:
        row["reward_model"]["ground_truth"] = "first"


def three_images(rows: Rows) -> None:
    rows[4]["images"] *= 3
    rows[4]["prompt"] = [{"role": "user", "content": "<image><image><image> Which?"}]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda rows: rows.clear(), [r"spoilt\.parquet", "row"]),
        (lambda rows: rows[7]["reward_model"].update(ground_truth="first"), [r"spoilt\.parquet, row 7", "first"]),
        (every_label, [r"spoilt\.parquet, row 9", "22 more failures of this kind"]),
        (lambda rows: rows[9].update(images=[{"bytes": PNG[:40], "path": None}]), [r"spoilt\.parquet, row 9"]),
        (lambda rows: rows[3].update(images=[]), [r"spoilt\.parquet, row 3"]),
        (lambda rows: rows.__delitem__(slice(3, None)), ["3 training rows", "train_batch_size"]),
        (
            lambda rows: rows.append(PolicyTask("digits", (Image(PNG),), "Which?", "").row()),
            [r"spoilt\.parquet, row 32"],
        ),
        (
            lambda rows: rows[5]["extra_info"].update(prompt_tokens=65),
            [r"spoilt\.parquet: the longest prompt has 65 tokens"],
        ),
        (three_images, [r"spoilt\.parquet: a row has 3 images, the rollout engine takes 1"]),
    ],
)
def test_bad_rows_are_named(
    good: dict[str, str], tmp_path: Path, spoil: Callable[[Rows], object], said: list[str]
) -> None:
    records = rows(32)
    spoil(records)
    refused(good, Path(write(tmp_path / "spoilt.parquet", records)), said)


def test_data_of_an_older_version_is_named_once(good: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "argv": ["prepare", "generic"]}))
    found = [finding for finding in preflight.findings(demo(good)) if finding.status == "fail"]
    assert [finding.check for finding in found] == ["data"]
    assert "was written by an older version" in found[0].detail


def test_images_that_stock_verl_shows_differently_are_named(good: dict[str, str], tmp_path: Path) -> None:
    file = io.BytesIO()
    PIL.Image.new("LA", (32, 32)).save(file, "PNG")
    pair = PreferencePair("digits", (Image(file.getvalue()),), "Which?", ("7", "3"), 0)
    records = [*rows(31), PreferenceTask(pair, order=0, index=31).row()]
    good["data.train_files"] = write(tmp_path / "transparent.parquet", records)
    assert [finding.status for finding in data_files.rows(demo(good))] == ["pass", "pass"]
    found = list(data_files.rows(demo(good | {"critic_r1.image_path": "stock"})))
    assert [finding.status for finding in found] == ["pass", "warn", "pass"]
    assert "1 images are shown differently by stock verl" in found[1].detail


def test_a_missing_value_is_named(good: dict[str, str]) -> None:
    del good["data.val_files"]
    with pytest.raises(preflight.PreflightError, match=r"data\.val_files has no value"):
        preflight.check(demo(good))


def test_unmeasured_prompts_are_a_warning(good: dict[str, str]) -> None:
    found = list(data_files.prompt_length(composed("r1", good)))
    assert [(finding.status, "34 rows were never measured" in finding.detail) for finding in found] == [("warn", True)]


IMAGES = [digit.image for digit in digits.load_digit_images()[:8]]


def in_orders(folder: Path, first: int, orders: Any) -> str:
    pairs = [PreferencePair("digits", (image,), "Which?", ("7", "3"), 0) for image in IMAGES[first : first + 4]]
    write_parquet(preference_tasks(pairs, orders=orders), folder)
    return str(folder / "train-00000.parquet")


@pytest.mark.parametrize(
    ("orders", "weight", "status", "said"),
    [
        (["both"], 0.1, None, ""),
        (["balanced"], 0.0, None, ""),
        (["balanced"], 0.1, "fail", "4 of 4 pairs are in data.train_files in one order only"),
        (["both", "as_is"], 0.1, "warn", "4 of 8 pairs"),
        ([], 0.1, "fail", "no row of data.train_files names its pair and order"),
    ],
)
def test_swap_consistency_needs_both_orders(
    tmp_path: Path, orders: list[str], weight: float, status: str | None, said: str
) -> None:
    named = [in_orders(tmp_path / str(i), 4 * i, order) for i, order in enumerate(orders)]
    config = composed("r1", {})
    config.data.train_files = named
    config.critic_r1.swap_consistency.weight = weight
    found = list(data_files.both_orders(config))
    assert [finding.status for finding in found] == ([status] if status else [])
    assert all(said in finding.detail and "--orders both" in finding.remedy for finding in found)


def test_every_refusal_was_made_by_a_test_above(request: pytest.FixtureRequest) -> None:
    every_refusal_was_made(request, "__init__.py", "data_files.py")
