"""What a command does to a folder that is not its own, that another holds, or whose input has bad rows."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from data_prep.files import folder_lock
from data_prep.tasks.ordering import preference_tasks
from data_prep.tasks.pairwise import Image, PolicyTask, PreferencePair
from recipe.critic_r1.cli import best_of_n, data, judge, label, policy_evaluation, report
from tests.data_prep.made_images import make_image
from tests.judging.fake_server import Behaviour, FakeServer, prefers_larger

APP = typer.Typer()
for _module in (data, judge, best_of_n, label, policy_evaluation, report):
    _module.register(APP)

RESULTS = {
    "judge": ["judge.json", "judgements.jsonl"],
    "best-of-n": ["best_of_n.json", "candidates.jsonl", "unanswered.jsonl"],
    "label": ["label.json", "judged.jsonl", "rejected.jsonl", "dpo/mine.parquet", "tasks/train-00000.parquet"],
    "eval-policy": ["eval_policy.json"],
}
IMAGES = [Image(make_image(i, form="PNG")) for i in range(3)]


def critic_rows() -> list[dict[str, Any]]:
    pairs = [PreferencePair("made", (image,), f"How many {i}?", ("7", "3"), 0) for i, image in enumerate(IMAGES)]
    return [task.row() for task in preference_tasks(pairs, split="test", orders="both", template="compact")]


def policy_rows() -> list[dict[str, Any]]:
    return [PolicyTask("counts", (im,), f"How many {i}?", "7", "test", i).row() for i, im in enumerate(IMAGES)]


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, list[str]]:
    """Arguments of each command."""
    for name, rows in (("pairs", critic_rows()), ("policy", policy_rows())):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    lines = []
    for i, image in enumerate(IMAGES):
        (tmp_path / f"{i}.png").write_bytes(image.data or b"")
        lines.append(json.dumps({"question": f"How many {i}?", "image": f"{i}.png", "responses": ["1", "4"]}))
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    return {
        "judge": [str(tmp_path / "pairs.parquet")],
        "best-of-n": [str(tmp_path / "policy.parquet"), "--n", "2", "--shown", "answer", "--template", "compact"],
        "label": [str(tmp_path / "prompts.jsonl"), "--template", "compact"],
        "eval-policy": ["paper26", "--print"],
    }


def run(command: str, arguments: list[str], out: Path, by: Behaviour = prefers_larger, model: str = "m") -> Any:
    """A command with a server of this behaviour."""
    with FakeServer(by) as server:
        words = [command, *arguments, "--model", model, "--base-url", server.url, "--out", str(out)]
        return CliRunner().invoke(APP, words)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("command", RESULTS)
def test_a_folder_that_another_command_writes_into_is_left_alone(
    command: str, inputs: dict[str, list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with folder_lock(out, "another"):
        (out / "judged.jsonl").write_text("of the other")
        before = content(out)
        result = run(command, inputs[command], out)
        assert content(out) == before
    assert result.exit_code == 2
    assert "is being written by another" in result.output


@pytest.mark.parametrize(("command", "name"), [(c, name) for c, names in RESULTS.items() for name in names])
def test_what_no_run_wrote_is_not_replaced(
    command: str, name: str, inputs: dict[str, list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    result = run(command, inputs[command], out)
    assert result.exit_code == 2
    assert "is in the way" in result.output
    assert {name: data for name, data in content(out).items() if name != ".lock"} == {name: b"mine"}


@pytest.mark.parametrize("command", ["judge", "best-of-n", "label"])
def test_results_are_replaced_and_what_lies_beside_them_stays(
    command: str, inputs: dict[str, list[str]], tmp_path: Path
) -> None:
    """Also a link at the place of a result: it is replaced, and what it points to stays as it is."""
    out = tmp_path / "out"
    (tmp_path / "precious").write_text("mine")
    assert run(command, inputs[command], out).exit_code == 0
    (out / "thesis.txt").write_text("mine")
    if command == "label":
        (out / "dpo" / "mine.jsonl").write_text("mine")
    result = out / RESULTS[command][0]
    result.unlink()
    result.symlink_to(tmp_path / "precious")
    assert run(command, inputs[command], out).exit_code == 0
    assert (out / "thesis.txt").read_text() == (tmp_path / "precious").read_text() == "mine"
    assert not result.is_symlink()
    assert command != "label" or (out / "dpo" / "mine.jsonl").read_text() == "mine"


@pytest.mark.parametrize("command", ["judge", "best-of-n", "label"])
def test_a_refused_run_leaves_the_results_of_an_earlier_one(
    command: str, inputs: dict[str, list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(command, inputs[command], out).exit_code == 0
    before = content(out)
    refused = run(command, [*inputs[command], "--max-tokens", "77"], out, lambda n, body: "401")
    assert refused.exit_code == 2
    assert "check address, model name and key" in refused.output
    after = content(out)
    assert {name: after[name] for name in before if name not in ("answers.jsonl", ".lock")} == {
        name: data for name, data in before.items() if name not in ("answers.jsonl", ".lock")
    }


def test_a_critic_that_refuses_leaves_the_candidates_of_an_earlier_run(
    inputs: dict[str, list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("best-of-n", inputs["best-of-n"], out).exit_code == 0
    before = (out / "candidates.jsonl").read_bytes()

    def writes_only(attempt: int, body: dict[str, Any]) -> Any:
        return "401" if "Response 1" in json.dumps(body) else prefers_larger(attempt, body)

    result = run("best-of-n", [*inputs["best-of-n"], "--n", "4"], out, writes_only)
    assert result.exit_code == 2
    assert (out / "candidates.jsonl").read_bytes() == before


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(row: dict[str, Any]) -> None:
        for key in path[:-1]:
            row = row[key]
        row[path[-1]] = value

    return change


BAD = {
    "no source": put("data_source", value=None),
    "no prompt": put("prompt", value=None),
    "empty prompt": put("prompt", value=[]),
    "no text": put("prompt", 0, "content", value=None),
    "no extra_info": put("extra_info", value=None),
    "no pair_id": put("extra_info", "pair_id", value=None),
    "no question": put("extra_info", "question", value=None),
    "no images": put("images", value=[]),
    "no bytes": put("images", 0, "bytes", value=None),
}
BAD_PAIRS = BAD | {
    "no reward_model": put("reward_model", value=None),
    "label": put("reward_model", "ground_truth", value="3"),
    "no order": put("extra_info", "order", value=None),
    "meta": put("extra_info", "meta", value="{not JSON"),
    "meta list": put("extra_info", "meta", value="[1]"),
    "deep meta": put("extra_info", "meta", value="[" * 100_000),
}


@pytest.mark.parametrize("fault", BAD_PAIRS)
def test_a_bad_row_costs_itself_and_is_named_by_judge(fault: str, tmp_path: Path) -> None:
    rows = critic_rows()
    BAD_PAIRS[fault](rows[2])
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    result = run("judge", [str(tmp_path / "pairs.parquet")], tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "left out: 1; the first is" in result.output
    found = json.loads((tmp_path / "out" / "judge.json").read_text())
    assert found["metrics"]["critic/accuracy"]["n"] == len(rows) - 1
    assert list(found["rows_lost"]["first"]) == [f"{tmp_path / 'pairs.parquet'} row 2"]


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_row_costs_itself_and_is_named_by_best_of_n(
    fault: str, inputs: dict[str, list[str]], tmp_path: Path
) -> None:
    rows = policy_rows()
    BAD[fault](rows[1])
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "policy.parquet")
    result = run("best-of-n", inputs["best-of-n"], tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"left out: 1; the first, {tmp_path / 'policy.parquet'} row 1" in result.output
    assert json.loads((tmp_path / "out" / "best_of_n.json").read_text())["questions"]["rows_lost"] == 1


@pytest.mark.parametrize("command", ["judge", "best-of-n"])
def test_only_bad_rows_are_no_run(command: str, inputs: dict[str, list[str]], tmp_path: Path) -> None:
    rows = critic_rows()[:1] if command == "judge" else policy_rows()[:1]
    BAD["no text"](rows[0])
    pq.write_table(pa.Table.from_pylist(rows), inputs[command][0])
    result = run(command, inputs[command], tmp_path / "out")
    assert result.exit_code == 2
    assert "a turn of it has no text" in result.output


@pytest.mark.parametrize("command", ["judge", "best-of-n", "label"])
@pytest.mark.parametrize("model", ["m\udcff", "[/red]\x1b[31mm"])
def test_strange_model_names(command: str, model: str, inputs: dict[str, list[str]], tmp_path: Path) -> None:
    result = run(command, inputs[command], tmp_path / "out", model=model)
    assert result.exit_code == (2 if "\udcff" in model else 0), result.output
    assert "\x1b" not in result.output
    assert isinstance(result.exception, SystemExit | None)


@pytest.mark.parametrize("command", ["judge", "best-of-n", "label"])
def test_one_question_that_is_filtered_costs_itself(command: str, inputs: dict[str, list[str]], tmp_path: Path) -> None:
    """Row and file are named, in both runs, and the others have their results."""

    def behaviour(attempt: int, body: dict[str, Any]) -> Any:
        asked.append(body)
        if "How many 1?" in json.dumps(body):
            return {"status": 400, "body": {"error": {"code": "content_filter", "message": "filtered"}}}
        return prefers_larger(attempt, body)

    asked: list[Any] = []
    out = tmp_path / "out"
    for again in (False, True):
        already = len(asked)
        result = run(command, inputs[command], out, behaviour)
        assert result.exit_code == 0, result.output
        assert "cannot be answered" in result.output
        assert (len(asked) == already) == again, "a filter's decision is final"
    if command == "best-of-n":
        assert f"no candidates for {inputs[command][0]} row 1" in result.output
        (lost,) = map(json.loads, (out / "unanswered.jsonl").read_text().splitlines())
        assert (lost["place"], lost["failure"]) == (f"{inputs[command][0]} row 1", "filtered")


def test_a_read_only_or_odd_place_is_named(inputs: dict[str, list[str]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    for name in ("file", "pipe", "link"):
        result = run("judge", inputs["judge"], tmp_path / name)
        assert (result.exit_code, name in result.output) == (2, True)


@pytest.mark.parametrize("command", ["compare", "report", "show"])
@pytest.mark.parametrize("place", ["file", "folder", "pipe"])
def test_a_file_that_the_command_did_not_write_is_left_alone(
    command: str, place: str, inputs: dict[str, list[str]], tmp_path: Path
) -> None:
    """Its own earlier file is replaced."""
    assert run("judge", inputs["judge"], tmp_path / "run").exit_code == 0
    words = {
        "compare": ["compare", tmp_path / "run", tmp_path / "run", "--out"],
        "report": ["report", tmp_path / "run", "--out"],
        "show": ["show", tmp_path / "pairs.parquet", "--html"],
    }[command]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    result = CliRunner().invoke(APP, [str(word) for word in (*words, tmp_path / place)])
    assert result.exit_code == 2, result.output
    assert (tmp_path / "file").read_text() == "mine"
    for _ in range(2):
        assert CliRunner().invoke(APP, [str(word) for word in (*words, tmp_path / "new")]).exit_code == 0
