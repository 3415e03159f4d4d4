"""Pairs in memory become a folder of tasks."""

import io
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from data_prep.checks.overlap import Exclusion
from data_prep.checks.rows import check_parquet
from data_prep.convert import convert
from data_prep.reading.inputs import InputError
from data_prep.settings import Settings
from data_prep.tasks.pairwise import Image, PreferencePair
from data_prep.write_tasks import write_tasks
from tests.data_prep.made_images import make_image


def pair(n: int = 0, preferred: Any = 0, **changes: Any) -> PreferencePair:
    given = {"images": [Image(make_image(n))], "question": "What is it?", "responses": ("A dog.", "A cat.")}
    return PreferencePair("mine", **{**given, **changes}, preferred=preferred)


def test_pairs_become_valid_tasks(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(make_image(9))
    decoded = PIL.Image.open(io.BytesIO(make_image(5)))
    pairs = [pair(n, n % 2) for n in range(4)] + [pair(preferred="tie")]
    pairs += [pair(images=[Image.from_pil(decoded), Image.from_path(tmp_path / "a.jpg")])]
    pairs += [pair(images=(Image(path=str(tmp_path / "a.jpg")),)), pair(images=[], question="Two and two?")]
    manifest = write_tasks(pairs, tmp_path / "tasks")
    assert manifest["rows"] == {"train": len(pairs)}
    assert check_parquet(tmp_path / "tasks").ok


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "F", "I;16"])
def test_an_image_of_any_mode(mode: str) -> None:
    image = Image.from_pil(PIL.Image.new(mode, (40, 30)))
    assert image.data is not None
    assert PIL.Image.open(io.BytesIO(image.data)).size == (40, 30)


@pytest.mark.parametrize("preferred", [0, 1, "tie"])
def test_swap_keeps_the_judgement(preferred: Any) -> None:
    first = pair(preferred=preferred)
    second = first.swap()
    assert second.responses == ("A cat.", "A dog.")
    assert (second.judgement, second.swap()) == (first.judgement, first)
    assert second.ground_truth(0) == first.ground_truth(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preferred": 2}, "0, 1 or 'tie'"),
        ({"preferred": True}, "0, 1 or 'tie'"),
        ({"preferred": "tie"}, "pair 1 is a tie"),
        ({"responses": ("a", "a ")}, "the same text"),
    ],
)
def test_a_wrong_pair_is_named_and_leaves_nothing(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_tasks([pair(), pair(1, **changes)], tmp_path / "tasks", ties=False)
    assert not list((tmp_path / "tasks").glob("*.parquet"))


def test_a_folder_of_an_older_version_is_refused_with_the_command(tmp_path: Path) -> None:
    write_tasks([pair()], tmp_path / "tasks")
    manifest = tmp_path / "tasks" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 3}))
    (tmp_path / "in.jsonl").write_text("{}")
    message = "format 3, now 5.*critic-r1 prepare write_tasks --input FILES --output .*tasks --overwrite"
    with pytest.raises(InputError, match=message):
        check_parquet(tmp_path / "tasks")
    with pytest.raises(InputError, match=message):
        Exclusion.from_files([tmp_path / "tasks"])
    with pytest.raises(InputError, match=message):
        convert([str(tmp_path / "in.jsonl")], tmp_path / "tasks", Settings("generic"))


def drawn(**changes: Any) -> PreferencePair:
    images = [Image(make_image(n)) for n in range(2)]
    given = {"source": "mine", "images": images, "question": "Draw a dog.", "responses": ("<image>", "<image>"),
             "preferred": 1, "response_images": (1, 1)}  # fmt: skip
    return PreferencePair(**{**given, **changes})


def test_responses_that_are_images(tmp_path: Path) -> None:
    write_tasks([drawn(), drawn(responses=("", "See <image>"))], tmp_path / "tasks", orders="both")
    assert check_parquet(tmp_path / "tasks").ok


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [Image(make_image(1))] * 2}, "same images"),
        ({"response_images": (2, 1)}, "of 2 images"),
        ({"response_images": (-1, 1)}, "of 2 images"),
        ({"responses": ("<image> <image>", "a")}, "2 <image> markers for 1 images"),
    ],
)
def test_images_that_cannot_be_those_of_the_responses(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_tasks([drawn(**changes)], tmp_path / "tasks")
