"""The table of docs/data.md, "I have this, what do I type": each of its commands reads rows in their authors' shape."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from data_prep.sources.registry import NAMES, load_source
from recipe.critic_r1.cli import app
from tests.data_prep.made_images import make_image
from tests.data_prep.made_records import EMBEDDED, GOOD
from tests.data_prep.sources.test_forms import FORMS

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


class Line(NamedTuple):
    """A line of the table."""

    have: str
    columns: list[str]
    command: list[str]


def lines() -> list[Line]:
    section = PAGE.read_text().split("## I have this, what do I type?")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")
    ][1:]
    return [
        Line(re.sub(r" \(.*|;.*", "", cell[0]).strip(), re.findall("`([^`]*)`", cell[1]), cell[2].split("`")[1].split())
        for cell in cells
    ]


TABLE = [line for line in lines() if ".py:" not in line.command[1]]

OTHERS: dict[str, dict[str, Any]] = {
    "chosen and rejected": {"question": "q?", "image": "1.jpg", "chosen": "a", "rejected": "b"},
    "two responses and a label": {"prompt": "q?", "image": "1.jpg", "response_1": "a", "response_2": "b", "label": "A"},
    "ranked responses": {"prompt": "q?", "image": "1.jpg", "responses": ["a", "b"], "rankings": [2, 1]},
    "other names, or nested": {"ask": "q?", "image": "1.jpg", "a": [{"text": "a"}, {"text": "b"}]},
    "responses that hold images": {"prompt": "q?", "chosen_images": ["1.jpg"], "rejected_images": ["2.jpg"]},
}


def test_every_source_and_form_has_a_line() -> None:
    assert {line.command[1] for line in TABLE} == set(NAMES)
    assert {line.have for line in TABLE if line.command[1] == "generic"} == {*FORMS, *OTHERS} - {
        "LLaMA-Factory sharegpt"
    }
    assert len(TABLE) >= 25


@pytest.mark.parametrize("line", TABLE, ids=lambda line: line.have)
def test_the_command_reads_what_the_line_says(line: Line, tmp_path: Path) -> None:
    for n in range(8):
        (tmp_path / f"{n}.jpg").write_bytes(make_image(n))
    (tmp_path / "mcq").mkdir()
    (tmp_path / "mcq" / "1.jpg").write_bytes(make_image(1))
    prepare, name, *options = line.command
    record = {**FORMS, **OTHERS}[line.have] if name == "generic" else GOOD[name](1)
    assert line.columns == [] or line.columns[0] in record or line.have == "two responses and a label"
    if name in EMBEDDED:
        path = tmp_path / "in.parquet"
        pq.write_table(pa.Table.from_pylist([record]), path)
    else:
        path = tmp_path / "in.jsonl"
        path.write_text(json.dumps(record))
    assert ("--image-root" in options) == load_source(name).needs_image_root
    words = [str(tmp_path) if word == "IMAGES" else word for word in options]
    result = CliRunner().invoke(app, [prepare, name, *words, "--input", str(path), "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "1 records read, 1 used, 0 rejected" in result.output
