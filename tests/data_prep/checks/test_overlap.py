"""Rows that also stand in a benchmark are found by image, by almost the same image, and by text."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from PIL import ImageDraw

from data_prep.checks.overlap import Exclusion, compare, perceptual_hash, text_key
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


def ranked(question: str, *responses: str) -> RankedResponses:
    ranks = tuple(range(1, len(responses) + 1))
    return RankedResponses("t", (Image(scene(97)),), question, responses, ranks)


@pytest.fixture
def benchmark_file(tmp_path: Path) -> Path:
    pairs = [pair(scene(n), f"Question {n}?", (f"It is {n}.", f"Not {n}!")) for n in range(20)]
    write_parquet(preference_tasks(pairs), tmp_path / "bench")
    return tmp_path / "bench"


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (pair(scene(3)), "overlap-image"),
        (pair(scene(3, (200, 150), 60)), "overlap-near-image"),
        (pair(scene(99), "question 7", ("not 7", "it is 7")), "overlap-text"),
        (pair(scene(99), "question 7", ("not 8", "it is 7")), None),
        (ranked("question 7", "not 8", "not 7", "it is 7"), "overlap-text"),
        (ranked("question 7", "not 8", "not 9", "it is 7"), None),
        (pair(scene(98)), None),
    ],
)
def test_hit(item: Any, expected: str | None, benchmark_file: Path) -> None:
    hit = Exclusion.from_files([benchmark_file]).hit(item)
    assert (hit and hit[0]) == expected
    assert hit is None or " as critic/t Question " in hit[1]


def test_different_scenes_are_not_near() -> None:
    codes = [perceptual_hash(scene(n)) for n in range(40)]
    distances = [(a ^ b).bit_count() for i, a in enumerate(codes) for b in codes[:i]]  # type: ignore[operator]
    assert min(distances) > 4


def test_empty_images_are_not_compared() -> None:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (100, 100), "white").save(stream, "PNG")
    assert perceptual_hash(stream.getvalue()) is None


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
