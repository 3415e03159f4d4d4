"""What is read: rows of every form, and bad ones by name, before anything is paid."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.tasks.pairwise import Image, PolicyTask, PreferencePair, PreferenceTask
from data_prep.writer import write_parquet
from recipe.critic_r1.labeling.questions import LabelPrompt, LostRow, read_prompts
from tests.labeling.conftest import Label, png, write_lines


def test_rows_from_jsonl_parquet_and_prepare(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    row = {"image": "a.png", "question": "<image>Q?", "response_1": "x", "response_2": "y", "id": 7}
    write_lines(tmp_path / "1.jsonl", [row])
    table = pa.table({"image": [{"bytes": png(2), "path": "p"}], "question": ["R?"]})
    pq.write_table(table, tmp_path / "2.parquet")
    image = Image(png(3))
    pair = PreferencePair("s", (image,), "S?", ("one", "two"), 0)
    write_parquet([PreferenceTask(pair, 1), PolicyTask("s", (image,), "T?", "3")], tmp_path / "own")
    files = [str(tmp_path / "1.jsonl"), str(tmp_path / "2.parquet"), str(tmp_path / "own" / "train-00000.parquet")]
    found = [item for item in read_prompts(files) if isinstance(item, LabelPrompt)]
    assert [(p.row, p.question, p.responses) for p in found] == [
        (0, "Q?", ("x", "y")),
        (0, "R?", ()),
        (0, "S?", ("two", "one")),
        (1, "T?", ()),
    ]
    assert found[0].name == "7"
    assert [bytes(p.images[0].data or b"") for p in found] == [png(1), png(2), png(3), png(3)]


GOOD = {"image": "a.png", "question": "Q?", "responses": ["x", "y"]}


@pytest.mark.parametrize(
    ("row", "reason", "said"),
    [
        ('{"image": ', "bad-json", "not valid JSON"),
        ('["x"]', "wrong-type", "Write one object a row"),
        ({**GOOD, "question": None}, "missing-field", "Give the row a 'question'"),
        ({**GOOD, "question": " "}, "empty-text", "is empty"),
        ({**GOOD, "image": None}, "image-missing", "Give the row an 'image'"),
        ({**GOOD, "image": "gone.png"}, "image-missing", "--image-root"),
        ({**GOOD, "image": "../a.png"}, "image-outside", "leads out"),
        ({**GOOD, "image": "text.png"}, "image-unreadable", "drop the row"),
        ({**GOOD, "image": "cut.png"}, "image-truncated", "drop the row"),
        ({**GOOD, "responses": "x"}, "wrong-type", "not a list"),
        ({**GOOD, "responses": None}, "missing-field", "--samples 4"),
        ({**GOOD, "responses": ["x", 3]}, "wrong-type", "not text"),
        ({"image": "a.png", "question": "Q?", "response_1": "x"}, "missing-field", "both 'response_1' and"),
    ],
)
def test_a_bad_row_is_named_before_anything_is_paid(
    tmp_path: Path, label: Label, row: object, reason: str, said: str
) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "cut.png").write_bytes(png(1)[: len(png(1)) // 2])
    (tmp_path / "text.png").write_bytes(b"no image at all")
    good, bad = json.dumps(GOOD), row if isinstance(row, str) else json.dumps(row)
    file = tmp_path / "in.jsonl"
    file.write_text(f"{good}\n{bad}\n")
    found = label(file, status=2)
    assert found.asked == []
    for text in ("in.jsonl row 1:", reason, said, "1 of 2 rows cannot be used"):
        assert text in found.output
    assert [(line["row"], line["reason"]) for line in found.lines("rejected.jsonl")] == [(1, reason)]


def test_bad_rows_can_be_skipped_and_are_counted(data: Path, label: Label) -> None:
    with data.open("a") as stream:
        stream.write('{"question": "Q?"}\n')
    found = label(data, "--skip-bad-rows")
    assert found.counts["prompts"] == {"read": 7, "used": 6, "rejected": 1}
    assert [(line["row"], line["reason"]) for line in found.lines("rejected.jsonl")] == [(6, "image-missing")]


def test_rows_without_responses_need_samples(without_responses: Path, label: Label) -> None:
    found = label(without_responses, status=2)
    assert "rows.jsonl row 0: the row has no responses" in found.output
    assert "--samples 4" in found.output


def test_lost_rows_say_where_what_and_the_remedy() -> None:
    lost = LostRow("f.jsonl", 3, "missing-field", "no question", "Give one.")
    assert str(lost) == "f.jsonl row 3: no question (missing-field). Give one."
