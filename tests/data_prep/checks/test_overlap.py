"""Rows that are also in a benchmark are found by image, by almost the same image, and by long texts."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from PIL import ImageDraw

from data_prep.checks.overlap import NEAR_BITS, Exclusion, compare, fingerprint, text_key
from data_prep.convert import convert
from data_prep.reading.inputs import InputError
from data_prep.settings import Settings
from data_prep.tasks.nway import RankedResponses
from data_prep.tasks.ordering import preference_tasks
from data_prep.tasks.pairwise import Image, PreferencePair
from data_prep.writer import write_parquet
from tests.data_prep.made_images import make_image


def scene(seed: int, size: tuple[int, int] = (320, 240), quality: int = 90) -> bytes:
    """A drawn scene; the same seed at another size or quality is the same scene saved again."""
    rng = np.random.default_rng(seed)
    image = PIL.Image.new("RGB", (320, 240), tuple(int(v) for v in rng.integers(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = int(rng.integers(0, 280)), int(rng.integers(0, 200))
        box = (x, y, x + int(rng.integers(20, 200)), y + int(rng.integers(20, 160)))
        draw.rectangle(box, fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
    stream = io.BytesIO()
    image.resize(size).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def pair(data: bytes, question: str = "What?", responses: tuple[str, str] = ("one", "two")) -> PreferencePair:
    return PreferencePair("t", (Image(data),), question, responses, 0, {"id": question})


LONG = "as anyone can see who looks at the lower left corner of the image, where the river turns to the south"
"""Makes both responses together long enough to be found by themselves."""


def texts_of(n: int) -> tuple[str, str]:
    """Two responses: short ones of even rows, long ones of odd rows."""
    return (f"It is {n}. {LONG}", f"Not {n}! {LONG}") if n % 2 else (f"It is {n}.", f"Not {n}!")


def drawing(seed: int) -> bytes:
    """A single shape on a light ground, as in easy-VQA; many have the same perceptual hash."""
    rng = np.random.default_rng(seed)
    image = PIL.Image.new("RGB", (64, 64), tuple(int(v) for v in rng.integers(230, 256, 3)))
    draw, colour = ImageDraw.Draw(image), tuple(int(v) for v in rng.integers(0, 200, 3))
    radius = int(rng.integers(8, 16))
    x, y = (int(v) for v in rng.integers(radius, 64 - radius, 2))
    box = (x - radius, y - radius, x + radius, y + radius)
    (draw.ellipse if seed % 2 else draw.rectangle)(box, fill=colour)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def ranked(question: str, *responses: str) -> RankedResponses:
    ranks = tuple(range(1, len(responses) + 1))
    return RankedResponses("t", (Image(scene(97)),), question, responses, ranks)


@pytest.fixture
def benchmark_file(tmp_path: Path) -> Path:
    pairs = [pair(scene(n), f"Question {n}?", texts_of(n)) for n in range(20)]
    write_parquet(preference_tasks(pairs), tmp_path / "bench")
    return tmp_path / "bench"


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (pair(scene(3)), "overlap-image"),
        (pair(scene(3, (200, 150), 60)), "overlap-near-image"),
        (pair(scene(99), "question 7", (f"not 7 {LONG}", f"it is 7 {LONG}")), "overlap-text"),
        (pair(scene(99), "question 7", (f"not 8 {LONG}", f"it is 7 {LONG}")), None),
        (pair(scene(99), "question 8", ("not 8", "it is 8")), None),  # short texts under another image
        (pair(scene(8), "question 8", ("not 8", "it is 8")), "overlap-image"),
        (PreferencePair("t", (), "question 8", ("not 8", "it is 8"), 0), None),
        (ranked("question 7", "not 8", f"not 7 {LONG}", f"it is 7 {LONG}"), "overlap-text"),
        (ranked("question 7", f"not 8 {LONG}", f"not 9 {LONG}", f"it is 7 {LONG}"), None),
        (pair(scene(98)), None),
    ],
)
def test_hit(item: Any, expected: str | None, benchmark_file: Path) -> None:
    hit = Exclusion.from_files([benchmark_file]).hit(item)
    assert (hit and hit[0]) == expected
    assert hit is None or " as critic/t Question " in hit[1]


def test_different_scenes_are_not_near() -> None:
    found = [fingerprint(scene(n)) for n in range(40)]
    assert not any(a.is_near(b) for i, a in enumerate(found) for b in found[:i])  # type: ignore[union-attr, arg-type]


def test_simple_drawings_with_near_hashes_are_not_near() -> None:
    found = [f for n in range(300) if (f := fingerprint(drawing(n))) is not None]
    pairs = [(a, b) for i, a in enumerate(found) for b in found[:i] if (a.code ^ b.code).bit_count() <= NEAR_BITS]
    assert len(pairs) > 10
    assert not any(a.is_near(b) for a, b in pairs)


@pytest.mark.parametrize(("size", "quality"), [((200, 150), 60), ((640, 480), 95), ((100, 75), 40)])
def test_a_scene_saved_again_is_near(size: tuple[int, int], quality: int) -> None:
    for n in range(20):
        assert fingerprint(scene(n)).is_near(fingerprint(scene(n, size, quality)))  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    ("texts", "expected"), [("long", [None, "overlap-text"]), ("any", ["overlap-text"] * 2), ("never", [None] * 2)]
)
def test_which_texts_count_is_an_option(texts: Any, expected: list[str | None], benchmark_file: Path) -> None:
    index = Exclusion.from_files([benchmark_file], texts=texts)
    hits = [index.hit(pair(scene(99), f"Question {n}?", texts_of(n))) for n in (8, 9)]
    assert [hit and hit[0] for hit in hits] == expected


def test_short_texts_count_between_rows_without_images(tmp_path: Path) -> None:
    bare = PreferencePair("t", (), "Two and two?", ("4", "5"), 0)
    write_parquet(preference_tasks([bare]), tmp_path / "bench")
    index = Exclusion.from_files([tmp_path / "bench"])
    assert index.hit(bare) is not None
    assert index.hit(pair(scene(1), "Two and two?", ("4", "5"))) is None


def test_empty_images_are_not_compared() -> None:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (100, 100), "white").save(stream, "PNG")
    assert fingerprint(stream.getvalue()) is None


def test_text_key_ignores_form_but_not_words() -> None:
    assert text_key("What is it?", ["A dog.", "a cat"]) == text_key("what is  it", ["A CAT!", "a dog"])
    assert text_key("What is it?", ["A dog.", "a cat"]) != text_key("What is it?", ["A dog.", "a cow"])


def test_excluded_rows_are_counted_and_named(tmp_path: Path, benchmark_file: Path) -> None:
    import json

    for n in range(6):
        (tmp_path / f"{n}.jpg").write_bytes(scene(n) if n < 2 else make_image(n, (90, 70)))
    rows = [{"question": f"q{n}", "chosen": "a", "rejected": "b", "image": f"{n}.jpg"} for n in range(6)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    other = [pair(scene(n), f"Question {n}?", ("yes", "no")) for n in range(50, 53)]
    write_parquet(preference_tasks(other), tmp_path / "other")
    # Full hashes are needed here, whatever `hashes` says.
    manifest = convert(
        [str(tmp_path / "in.jsonl")],
        tmp_path / "out",
        Settings("generic", hashes=False),
        exclude=[str(benchmark_file), str(tmp_path / "other")],
        perceptual=False,
    )
    assert manifest["rejected"] == {"overlap-image": 2}
    named = [(e["file"], e["rows"]) for e in manifest["exclude"]]
    assert named == [("bench/train-00000.parquet", 20), ("other/train-00000.parquet", 3)]
    details = [json.loads(line)["detail"] for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert details == [f"the same image as critic/t Question {n}?" for n in range(2)]
    report = compare([benchmark_file], [benchmark_file])
    assert (report.rows, report.same_image, report.same_text, report.any) == (20, 20, 20, 20)
    report = compare([tmp_path / "out"], [benchmark_file])
    assert (report.rows, report.any) == (4, 0)


def test_a_raw_benchmark_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("raw")
    with pytest.raises(InputError, match="prepare the benchmark first"):
        Exclusion.from_files([tmp_path / "x.parquet"])
