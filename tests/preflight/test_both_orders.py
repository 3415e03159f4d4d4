"""Swap consistency is refused on data that it would pay nothing for."""

from pathlib import Path
from typing import Any

import pytest

from data_prep.sources import digits
from data_prep.tasks.ordering import preference_tasks
from data_prep.tasks.pairwise import PreferencePair
from data_prep.writer import write_parquet
from recipe.critic_r1.preflight import data_files
from tests.preflight.conftest import composed

IMAGES = [digit.image for digit in digits.load_digit_images()[:8]]


def write(folder: Path, first: int, orders: Any) -> str:
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
        ([], 0.1, "fail", "0 of 0 pairs"),
    ],
)
def test_swap_consistency_needs_both_orders(
    tmp_path: Path, orders: list[str], weight: float, status: str | None, said: str
) -> None:
    named = [write(tmp_path / str(i), 4 * i, order) for i, order in enumerate(orders)]
    config = composed("r1", {})
    config.data.train_files = named
    config.critic_r1.swap_consistency.weight = weight
    found = list(data_files.both_orders(config))
    assert [finding.status for finding in found] == ([status] if status else [])
    assert all(said in finding.detail and "--orders both" in finding.remedy for finding in found)
