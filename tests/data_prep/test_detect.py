"""`prepare auto` finds the source of every set by its records, and says why where it cannot."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.detect import detect
from data_prep.reading.inputs import InputError
from data_prep.settings import Settings
from tests.data_prep.made_images import make_image
from tests.data_prep.made_records import EMBEDDED, GOOD

AS_GENERIC = {
    "rlaif_v",
    "mm_rlhf",
    "mm_rlhf_rewardbench",
    "spa_vl",
    "sharegpt_ranking",
    "mmpr",
    "videorewardbench",
    "generic",
}
"""Sets in a form that `generic` reads alike."""


def written(folder: Path, name: str, records: list[Any]) -> str:
    path = folder / ("in.parquet" if name in EMBEDDED else "in.jsonl")
    if name in EMBEDDED:
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text("\n".join(map(json.dumps, records)))
    return str(path)


@pytest.mark.parametrize("name", GOOD)
def test_every_source_is_found(name: str, tmp_path: Path) -> None:
    found = detect([written(tmp_path, name, [GOOD[name](n) for n in range(8)])], Settings("auto"))
    assert found.source == ("generic" if name in AS_GENERIC else name)
    assert (found.read, found.seen, len(found.examples)) == (8, 8, 3)
    assert "question: 'What is" in found.examples[2].replace("User: Hello 2\\nAssistant: Hello.\\nUser: ", "")


def test_examples_show_the_meaning_of_the_labels(tmp_path: Path) -> None:
    rows = [{"prompt": "q?", "answer_a": "a", "answer_b": "b", "label": n, "image": "x.jpg"} for n in (1, 0)]
    found = detect([written(tmp_path, "generic", rows)], Settings("auto"))
    assert [example.splitlines()[-1] for example in found.examples] == ["better: second", "better: first"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": 1, "b": 2}], "no source reads these records. They have: a, b"),
        ([GOOD["mm_rlhf"](0)] * 8 + [{"a": 1}] * 2, "no source reads these records"),
        ([{"prompt": "q?", "answer_a": "a", "answer_b": "b", "label": True, "image": "x"}], "--label-values"),
        (["text"], "none of its first records can be read"),
    ],
)
def test_it_goes_on_only_when_sure(rows: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        detect([written(tmp_path, "generic", rows)], Settings("auto"))


def test_the_command(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from recipe.critic_r1.cli import app

    for n in range(4):
        (tmp_path / f"{n}.jpg").write_bytes(make_image(n))
    path = written(tmp_path, "multimodal_rewardbench", [GOOD["multimodal_rewardbench"](n) for n in range(4)])
    result = CliRunner().invoke(app, ["prepare", "auto", "--input", path, "--output", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert "multimodal_rewardbench reads 4 of the first 4 records" in result.output
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["source"]["name"] == "multimodal_rewardbench"
