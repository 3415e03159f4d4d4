"""Rows that anybody may have written are shown as far as they go; a file that holds no tasks is refused."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.checks.overlap import compare
from data_prep.checks.show import html_sheet, prompt_text, sample_rows
from data_prep.reading.inputs import InputError
from tests.data_prep.checks.test_rows import good_rows, write

STRANGE: dict[str, dict[str, Any]] = {
    "no extra_info": {"extra_info": None},
    "another extra_info": {"extra_info": {"index": 1}},
    "extra_info as text": {"extra_info": "x"},
    "no turns": {"prompt": []},
    "prompt as text": {"prompt": "What?"},
    "no prompt": {"prompt": None},
    "no reward_model": {"reward_model": None},
    "no images": {"images": None},
    "no source": {"data_source": None},
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_row_is_shown(name: str, tmp_path: Path) -> None:
    rows = [{**row, **STRANGE[name]} for row in good_rows(2)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    drawn = list(sample_rows([tmp_path], 2))
    html_sheet(drawn, tmp_path / "sheet.html")
    assert (tmp_path / "sheet.html").read_text().count("<article>") == len(drawn) == 2
    assert all(isinstance(prompt_text(row), str) for _, row in drawn)


@pytest.mark.parametrize("name", ["no extra_info", "another extra_info", "extra_info as text"])
def test_strange_rows_cannot_be_compared(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{**row, **STRANGE[name]} for row in good_rows(2)]), path)
    with pytest.raises(InputError, match=r"a\.parquet: a row's `extra_info` is not that of a task"):
        compare([path], [path])


def test_images_that_cannot_be_compared_are_counted(tmp_path: Path) -> None:
    rows = good_rows(3)
    rows[1]["images"][0]["bytes"] = None
    path = write(tmp_path / "a.parquet", rows)
    report = compare([write(tmp_path / "b.parquet", good_rows(3))], [path])
    assert (report.unreadable, report.same_image) == (1, 2)


def test_a_file_without_tasks_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet: not a file of tasks, it has no data_source"):
        list(sample_rows([tmp_path], 1))
