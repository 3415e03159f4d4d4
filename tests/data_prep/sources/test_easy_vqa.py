"""The easy-VQA source: what an image shows follows from its questions; splits are disjoint and reproducible."""

import builtins
from collections import Counter
from typing import Any

import numpy as np
import pytest

from data_prep.reading.images import open_image
from data_prep.sources.easy_vqa import ALL_SEEN, KINDS, Kind, Seen, easy_split, kind_of, load, questions


@pytest.mark.parametrize(
    ("question", "kind", "answer"),
    [
        ("what shape is in the image?", "shape", "circle"),
        ("what is the teal shape?", "shape", "circle"),
        ("what color is the shape?", "color", "teal"),
        ("what is the color of the circle?", "color", "teal"),
        ("is there a circle?", "shape_there", "yes"),
        ("does the image contain a rectangle?", "shape_there", "no"),
        ("is no circle present?", "shape_absent", "no"),
        ("is there not a triangle in the image?", "shape_absent", "yes"),
        ("is a teal shape present?", "color_there", "yes"),
        ("is there a red shape?", "color_there", "no"),
        ("does the image not contain a teal shape?", "color_absent", "no"),
        ("is no gray shape present?", "color_absent", "yes"),
    ],
)
def test_questions_about_a_teal_circle(question: str, kind: Kind, answer: str) -> None:
    assert question in questions()
    assert kind_of(question) == kind
    assert Seen("circle", "teal").answer(question) == answer
    assert Seen("circle", "teal").allows(question, answer)


@pytest.mark.parametrize("question", ["what is the red shape?", "what color is the triangle?"])
def test_a_question_that_names_something_else_is_not_about_this_image(question: str) -> None:
    seen = Seen("circle", "teal")
    assert not seen.allows(question, seen.answer(question))


def test_another_question_is_refused() -> None:
    with pytest.raises(ValueError, match="not a question of easy-VQA: 'is it nice"):
        kind_of("is it nice?")


def test_the_set_is_the_published_one() -> None:
    import easy_vqa

    assert len(questions()) == 107
    assert {kind_of(question) for question in questions()} == {*KINDS}
    # Every answer of the set follows from what the image shows.
    published = list(zip(*easy_vqa.get_test_questions(), strict=True))
    shown = {image.index: image.seen for image in load("test")}
    assert len(published) == 9673
    assert (len(load("train")), len(shown)) == (3578, 888)
    told = [(shown[index].answer(question), answer) for question, answer, index in published if index in shown]
    assert len(told) > 8500
    assert all(ours == theirs for ours, theirs in told)


def test_images_show_what_their_questions_say() -> None:
    """The pixels agree: there is something of the color, and it fills its box as the shape does, if it is not cut."""
    colors = {
        "black": (0, 0, 0), "blue": (0, 0, 255), "brown": (165, 42, 42), "gray": (128, 128, 128), "green": (0, 255, 0),
        "red": (255, 0, 0), "teal": (0, 128, 128), "yellow": (255, 255, 0),
    }  # fmt: skip
    filled = {"rectangle": (0.9, 1.0), "circle": (0.6, 0.9), "triangle": (0.3, 0.65)}
    seen = set()
    for image in load("test")[:200]:
        opened = open_image(image.png)
        assert opened.size == (56, 56)
        inside = np.abs(np.asarray(opened, int) - colors[image.seen.color]).sum(-1) < 60
        rows, columns = np.nonzero(inside)
        box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        low, high = filled[image.seen.shape]
        whole = min(rows.min(), columns.min()) > 0 and max(rows.max(), columns.max()) < 55
        if whole and box > 250:  # the edge of a smaller one is too much of it
            assert low <= inside.sum() / box <= high, image
            seen.add(image.seen)
    assert len(seen) > 20


@pytest.mark.parametrize("seed", [0, 1])
def test_splits(seed: int) -> None:
    split = easy_split(seed, n_warm_start=50, n_rl=100, n_test=40)
    assert {name: len(images) for name, images in split.items()} == {"test": 40, "warm_start": 50, "rl": 100}
    assert {name: {image.part for image in images} for name, images in split.items()} == {
        "test": {"test"}, "warm_start": {"train"}, "rl": {"train"},
    }  # fmt: skip
    digests = [image.image.blake3 for images in split.values() for image in images]
    assert len({*digests}) == 190
    counts = Counter(image.seen for image in split["warm_start"])
    assert {*counts} == {*ALL_SEEN}
    assert {*counts.values()} == {2, 3}
    assert split["test"] == easy_split(seed, n_warm_start=5, n_rl=10, n_test=40)["test"]
    assert split["test"] != easy_split(seed + 1, n_warm_start=50, n_rl=100, n_test=40)["test"]


@pytest.mark.parametrize("sizes", [(10, 4000, 10), (10, 10, 1001), (-1, 10, 10)])
def test_an_impossible_split_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"asked for, \d+ exist"):
        easy_split(0, *sizes)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "easy_vqa":
            raise ImportError(name)
        return found(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    load.cache_clear()
    with pytest.raises(ImportError, match=r"need easy-vqa: install critic-r1\[easy-vqa\]"):
        load("train")
