"""Questions from our files and from others'."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.tasks.pairwise import Image, PolicyTask
from data_prep.writer import write_parquet
from recipe.critic_r1.judging.generation import ImagePart, TextPart
from recipe.critic_r1.selection.candidates import make_pool
from recipe.critic_r1.selection.problems import read_problems, right_answer
from tests.data_prep.made_images import make_image


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    lines = []
    for n in range(3):
        (tmp_path / f"{n}.jpg").write_bytes(make_image(n))
        lines.append(json.dumps({"question": f"How many <image> {n}?", "image": f"{n}.jpg", "answer": n}))
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*lines, lines[0]]))
    return path


def test_rows_of_others_get_the_instruction(rows: Path) -> None:
    problems = read_problems([str(rows)])
    assert [(p.question, p.ground_truth) for p in problems] == [(f"How many <image> {n}?", str(n)) for n in range(3)]
    image, text = problems[0].messages[0].parts
    assert isinstance(image, ImagePart)
    assert isinstance(text, TextPart)
    assert text.text.startswith("How many ‹image› 0?\n\n")
    assert "\\boxed{}" in text.text
    (_, plain) = read_problems([str(rows)], instruct=False)[0].messages[0].parts
    assert plain == TextPart("How many ‹image› 0?")


def test_our_rows_are_asked_as_they_stand(tmp_path: Path) -> None:
    write_parquet([PolicyTask("counts", (Image(make_image(0)),), "How many?", "7", "test", 0)], tmp_path)
    (problem,) = read_problems([str(tmp_path)])
    assert problem.messages[0].parts[1] == TextPart("How many?")
    assert problem.ground_truth == "7"


def test_a_parquet_file_of_others(tmp_path: Path) -> None:
    row = {"question": "How many?", "image": {"bytes": make_image(0), "path": "a.jpg"}, "answer": "7"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "in.parquet")
    assert [p.ground_truth for p in read_problems([str(tmp_path / "in.parquet")])] == ["7"]


def test_what_is_lacking_is_named(rows: Path) -> None:
    rows.write_text(json.dumps({"question": "How many?", "image": "0.jpg"}))
    with pytest.raises(ValueError, match=r"rows\.jsonl row 0: the row has no answer .*Give the row an 'answer'"):
        read_problems([str(rows)])
    rows.write_text(json.dumps({"question": "How many?", "image": "gone.jpg", "answer": 1}))
    with pytest.raises(ValueError, match=r"rows\.jsonl row 0: .*image"):
        read_problems([str(rows)])


def test_answers_are_equal_however_they_are_spelled(rows: Path) -> None:
    """The same answer in another spelling counts for the same side, and is right as the reward sees it."""
    problem = read_problems([str(rows)], instruct=False)[1]
    texts = [f"\\boxed{{{text}}}" for text in ("1", "$1$.", "1.0", "One", "Two")]
    pool = make_pool(problem, texts, is_correct=right_answer)
    assert [c.answer for c in pool.candidates] == ["1", "1", "1.0", "one", "two"]
    assert [c.shown for c in pool.candidates] == ["1", "$1$.", "1.0", "One", "Two"]
    assert [c.correct for c in pool.candidates] == [True, True, True, True, False]
