"""The digits source: reproducible, disjoint, and right."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_prep.checks.rows import check_parquet
from data_prep.reading.images import open_image
from data_prep.sources.digits import digit_split, load_digit_images
from data_prep.tasks.ordering import preference_tasks
from data_prep.writer import write_parquet
from tests import made_digits


def test_images_are_the_digits_of_the_set() -> None:
    from sklearn.datasets import load_digits

    images = load_digit_images()
    originals = load_digits().images
    assert len(images) == 1797
    for i in (0, 700, 1796):
        image = open_image(images[i].png)
        assert image.size == (56, 56)
        small = np.asarray(image.convert("L").resize((8, 8)), float) / 255 * 16
        assert np.corrcoef(small.ravel(), originals[i].ravel())[0, 1] > 0.95


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_share_no_image(seed: int) -> None:
    split = digit_split(seed)
    assert {k: len(v) for k, v in split.items()} == {"test": 400, "warm_start": 60, "rl": 1000}
    digests = [load_digit_images()[i].image.blake3 for part in split.values() for i in part]
    assert len(digests) == len(set(digests))


def test_test_split_stays_when_training_grows() -> None:
    assert digit_split(5)["test"] == digit_split(5, n_warm_start=10, n_rl=20)["test"]
    assert digit_split(5)["test"] != digit_split(6)["test"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_warm_start_sees_every_digit_equally_often(seed: int) -> None:
    images = load_digit_images()
    seen = Counter(images[i].label for i in digit_split(seed, n_warm_start=43)["warm_start"])
    assert sorted(seen) == list(range(10))
    assert set(seen.values()) == {4, 5}


@pytest.mark.parametrize("sizes", [(60, 1000, 800), (-1, 10, 10)])
def test_impossible_split_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="digits asked for"):
        digit_split(0, *sizes)


def test_critic_and_policy_rows_validate(tmp_path: Path) -> None:
    split = digit_split(0, n_rl=40, n_test=10)
    pairs = made_digits.pairs(split["rl"], n=2)
    assert len(pairs) == 80
    labels = {p.index: str(p.label) for p in load_digit_images()}
    assert all(p.responses[0] == labels[p.meta["id"]] != p.responses[1] for p in pairs)
    manifest = write_parquet(
        [*preference_tasks(pairs, template="compact"), *made_digits.questions(split["test"], "test")],
        tmp_path,
        settings={"seed": 0},
    )
    assert manifest["labels"]["train critic/digits"] == {"1": 40, "2": 40}
    report = check_parquet(tmp_path)
    assert report.ok
    assert report.rows == 90
