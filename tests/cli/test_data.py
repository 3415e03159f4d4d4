"""The commands: what a user types, sees and gets as an exit code."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from data_prep.sources.registry import NAMES
from recipe.critic_r1.cli.data import register
from tests.data_prep.made_images import make_image
from tests.data_prep.made_records import GOOD

app = typer.Typer()
register(app)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for n in range(6):
        (tmp_path / f"{n}.jpg").write_bytes(make_image(n))
    records = [GOOD["mm_rlhf"](n) for n in range(6)]
    records[2]["chosen"] = None
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
    return tmp_path / "in.jsonl"


def test_list_names_every_source() -> None:
    code, text = run("prepare", "--list")
    assert code == 0
    assert all(name in text for name in NAMES)


def test_prepare_validate_show(raw: Path) -> None:
    out = raw.parent / "out"
    code, text = run("prepare", "mm_rlhf", "--input", raw, "--output", out)
    assert code == 0
    assert "6 records read, 5 used, 1 rejected" in text
    assert "rejected: missing-field: 1" in text
    assert run("validate", out, "--no-verl") == (0, "train-00000.parquet: 5 rows\n5 rows are good\n")
    code, text = run("show", out, "-n", 2, "--html", raw.parent / "sheet.html")
    assert code == 0
    assert text.count("Response 1:") == 2
    assert (raw.parent / "sheet.html").read_text().count('<img alt="" src="data:image/jpeg;base64,') == 2


def test_mapped_columns(raw: Path) -> None:
    arguments = ("--map", "question=prompt", "--map", "chosen=rejected", "--map", "rejected=chosen")
    out = raw.parent / "out"
    assert run("prepare", "generic", "--input", raw, "--output", out, *arguments, "--orders", "as_is")[0] == 0
    code, text = run("show", out, "-n", 9)
    assert code == 0
    assert all("Response 1:\nA cat" in part for part in text.split("Question:")[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "rlhf_w", "--input", "IN", "--output", "o"), "there is no source 'rlhf_w'"),
        (("prepare", "mm_rlhf", "--input", "absent.jsonl", "--output", "o"), "no such file or folder"),
        (
            ("prepare", "mm_rlhf", "--input", "IN", "--output", "o", "--ties", "maybe"),
            "'maybe' is not one of 'keep', 'drop'",
        ),
        (("prepare", "mm_rlhf", "--input", "IN", "--output", "o", "--template", "x"), "no template 'x'"),
        (("prepare", "mm_rlhf", "--input", "IN", "--output", "o", "--max-prompt-tokens", 9), "give --model"),
        (("prepare", "generic", "--input", "IN", "--output", "o", "--map", "a=b"), "FIELD=COLUMN"),
        (("prepare", "generic", "--input", "IN", "--output", "o", "--map", "chosen"), "give NAME=VALUE"),
        (("prepare", "generic", "--input", "IN", "--output", "o", "--map", "id=a", "--map", "id=b"), "given twice"),
        (("prepare", "rlaif_v", "--input", "IN", "--output", "o", "--map", "id=a"), "--map is for `generic`"),
        (("prepare", "rlaif_v", "--input", "IN", "--output", "o", "--label-values", "1=tie"), "no meaning for rlaif_v"),
        (("prepare", "generic", "--input", "IN", "--output", "o", "--label-values", "0=left"), "first, second, tie"),
        (
            ("prepare", "generic", "--input", "IN", "--output", "o", "--contradictions", "x"),
            "'x' is not one of 'drop', 'keep'",
        ),
        (
            ("prepare", "generic", "--input", "IN", "--output", "o", "--exclude-texts", "x"),
            "is not one of 'long', 'any', 'never'",
        ),
        (("prepare", "mm_rlhf", "--input", "IN", "--output", "o", "--split", "a/b"), "begins a file's name"),
        (("show", "cut"), "cut.parquet: not a readable Parquet file"),
        (("overlap", "absent.parquet", "absent.parquet"), "prepare the benchmark first"),
        (("show", "absent"), "name a folder that `critic-r1 prepare` wrote"),
        (("show", "."), "name a folder that `critic-r1 prepare` wrote"),
    ],
)
def test_mistakes_are_one_plain_message(
    arguments: tuple[object, ...], message: str, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(raw.parent)
    Path("cut").mkdir()
    Path("cut/cut.parquet").write_bytes(b"PAR1 and no more")
    code, text = run(*[raw if a == "IN" else a for a in arguments])
    assert code == 2
    assert message in " ".join(text.split())
    assert "Traceback" not in text


def test_a_finished_folder_says_that_it_was_left_alone(raw: Path) -> None:
    arguments = ("prepare", "mm_rlhf", "--input", raw, "--output", raw.parent / "out")
    assert "made already" not in run(*arguments)[1]
    assert "was made already" in " ".join(run(*arguments)[1].split())
    assert "made already" not in run(*arguments, "--overwrite")[1]


def test_what_is_shown_cannot_command_the_terminal(raw: Path) -> None:
    record = GOOD["mm_rlhf"](0) | {"chosen": "a \x1b]0;title\x07 dog\x1b[31m"}
    raw.write_text(json.dumps(record))
    run("prepare", "mm_rlhf", "--input", raw, "--output", raw.parent / "out")
    code, text = run("show", raw.parent / "out")
    assert code == 0
    assert "\x1b]" not in text
    assert "\ufffd[31m" in text


def test_the_source_of_ones_own_in_the_documentation(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(raw.parent)
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    Path("mine.py").write_text(page.split("```python\n")[1].split("```")[0])
    records = [
        {"photo": f"{n}.jpg", "ask": "Which?", "left": f"a dog {n}", "right": "a cat", "verdict": verdict}
        for n, verdict in enumerate(("left", "right", "same", "neither"))
    ]
    Path("mine.jsonl").write_text("\n".join(map(json.dumps, records)))
    code, text = run("prepare", "mine.py:pairs", "--input", "mine.jsonl", "--output", "out", "--image-root", ".")
    assert code == 0
    assert "4 records read, 3 used, 1 rejected" in text
    assert "unforeseen: 1" in text
    assert run("validate", "out", "--no-verl")[0] == 0


def test_pairs_in_memory_as_in_the_documentation(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(raw.parent)
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    Path("cat.jpg").write_bytes(Path("0.jpg").read_bytes())
    exec(page.split("```python\n")[2].split("```")[0], {})
    assert run("validate", "data/mine", "--no-verl")[0] == 0


def test_labels_contradictions_and_text_only(raw: Path) -> None:
    """The options that decide what one row alone does not say."""
    row = {"prompt": "q?", "response_a": "a", "response_b": "b", "preferred": True}
    raw.write_text("\n".join(map(json.dumps, [row, {**row, "preferred": False}, {**row, "prompt": "other?"}])))
    out, arguments = raw.parent / "out", ("prepare", "generic", "--input", raw, "--text-only", "--output")
    code, text = run(*arguments, out)
    assert code == 2
    assert "false (1 times), true (2 times)" in " ".join(text.split())
    labels = ("--label-values", "true=first", "--label-values", "false=second")
    code, text = run(*arguments, out, *labels)
    assert code == 0
    assert "3 records read, 1 used, 2 rejected" in text
    assert "rejected: contradictory: 2" in text
    code, text = run(*arguments, raw.parent / "kept", *labels, "--contradictions", "keep")
    assert "kept with contradictory labels: 2 pairs" in text


def test_an_empty_file_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    code, output = run("prepare", "generic", "--input", tmp_path / "a.jsonl", "--output", tmp_path / "o")
    assert code == 1
    assert "the input holds no record" in output


def test_nothing_usable_is_a_failure(raw: Path) -> None:
    code, text = run("prepare", "rlhf_v", "--input", raw, "--output", raw.parent / "out")
    assert code == 1
    assert "rejected.jsonl" in text.replace("\n", "")
    assert "'text' is missing or null The record has: " in " ".join(text.split())


def test_validate_fails_with_a_table(tmp_path: Path) -> None:
    code, text = run("validate", tmp_path)
    assert code == 1
    assert "no-file" in text
