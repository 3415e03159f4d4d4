"""What a run directory may lack, and what a malformed file in it must say."""

import json
import os
from pathlib import Path

import pytest
from blake3 import blake3

from recipe.critic_r1.report import run_files
from recipe.critic_r1.report.records import ReportError
from recipe.critic_r1.report.run_files import read_run, read_runs


def bare_run(root: Path, files: dict[str, str]) -> Path:
    for name, text in ({"run.json": '{"name": "bare"}'} | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_only_run_json_is_needed(tmp_path: Path) -> None:
    run = read_run(bare_run(tmp_path, {}))
    assert run.info is not None
    assert (run.info.name, run.steps, run.measured, run.notes) == ("bare", [], [], [])


STEP = json.dumps({"step": 1, "data": {}}) + "\n"
JUDGED = json.dumps({"pair_id": "p"}) + "\n"
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("run.json", '{\n "name": "x",\n oops}', "run.json cannot be used: line 3 is not JSON"),
        ("run.json", '{"seed": 1}', "run.json cannot be used: name: Field required"),
        ("run.json", '{"name": "x", "stages": [{"seconds": 1}]}', "run.json cannot be used: stages.0.name: Field"),
        ("run.json", '{"name": "\xff"}', "run.json cannot be used: not UTF-8"),
        ("run.json", DEEP, "run.json cannot be used: "),
        ("run.json", '{"name": "x", "settings": ' + '{"a":' * 60 + "1" + "}" * 61, "run.json cannot be used: nested"),
        ("judge.json", '{"metrics": {"a": 1}}', "judge.json cannot be used: metrics.a: Input"),
        (
            "best_of_n.json",
            '{"curves": {"oracle": [{"value": 1}]}}',
            "best_of_n.json cannot be used: curves.oracle.0",
        ),
        ("best_of_n.json", '{"curves": {"o": [{"value": 1, "n_candidates": 0}]}}', "best_of_n.json cannot be used: "),
        ("eval_policy.json", "{}", "eval_policy.json cannot be used: metrics: Field required"),
    ],
)
def test_a_damaged_result_file_is_named_and_costs_itself(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ReportError) as caught:
        read_run(tmp_path)
    assert str(caught.value).startswith(expected)
    assert "Run that stage again" in str(caught.value)
    other = "best_of_n.json" if name != "best_of_n.json" else "judge.json"
    (tmp_path / other).write_text("{}", encoding="utf-8")
    run = read_run(tmp_path)
    assert len(run.measured) == 1
    assert any(note.startswith(expected) for note in run.notes)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("train/metrics.jsonl", STEP + "oops\n" + STEP, "1 line cannot be used and is left out, line 2: not JSON"),
        ("train/metrics.jsonl", STEP + "\n" + '{"data": {}}\n', "left out, line 3: step: Field required"),
        ("train/metrics.jsonl", STEP + '{"step": "two", "data": {}}\n', "left out, line 2: step: Input"),
        ("train/metrics.jsonl", STEP + '{"step": -1, "data": {}}\n', "left out, line 2: step: Input"),
        ("train/metrics.jsonl", STEP + '{"step": 1' + "0" * 400 + ', "data": {}}\n', "left out, line 2: step: Input"),
        ("train/metrics.jsonl", STEP + "[1]", "left out, line 2: the whole record"),
        ("train/metrics.jsonl", STEP + DEEP, "left out, line 2: "),
        # What a killed writer leaves.
        ("train/metrics.jsonl", STEP + '{"step": 2, "da', "left out, line 2: not JSON"),
        ("train/metrics.jsonl", STEP + '{"step": 2, "data": {"\xff": 1}}\n', "left out, line 2: not JSON"),
        ("eval/after_judgements.jsonl", JUDGED * 2 + "{}\n", "left out, line 3: pair_id: Field"),
        (
            "eval/after/judgements.jsonl",
            JUDGED + "{\n" * 3,
            "3 lines cannot be used and are left out; the first, line",
        ),
        ("train/samples.jsonl", '{"step": 1}\n{"step": "seven"}\n', "left out, line 2: step: "),
    ],
)
def test_damaged_lines_are_counted_and_named(tmp_path: Path, name: str, text: str, expected: str) -> None:
    bare_run(tmp_path, {})
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    run = read_run(tmp_path)
    (note,) = run.notes
    assert note.startswith(f"{name}: ")
    assert expected in note
    assert len(note) < 500
    held = len(run.steps) + len(run.rollouts) + sum(len(one.judgements) for one in run.measured)
    assert held == (2 if "after_judgements" in name else 1), "the other lines are kept"


@pytest.mark.parametrize("text", ['{"metrics": {"a": {"value": "high"}}}', '{"metrics":\n ['])
def test_a_damaged_evaluation_leaves_the_other_one(tmp_path: Path, text: str) -> None:
    files = {"eval/after.json": text, "eval/before.json": '{"metrics": {"a": {"value": 1}}}'}
    run = read_run(bare_run(tmp_path, files))
    assert [list(one.evaluation.metrics) for one in run.measured] == [["a"], []]
    assert run.notes[0].startswith("eval/after.json cannot be used: ")


@pytest.mark.parametrize(
    ("pred", "strange"),
    [("3", 1), ("TIE ", 0), ("", 0), (None, 0), ("Response 1", 1), (3, 1), ("1" * 10_000, 1)],
)
def test_a_strange_verdict_is_counted_and_unparsed(tmp_path: Path, pred: object, strange: int) -> None:
    lines = [{"pair_id": "p", "order": 0, "pred": pred, "ground_truth": "1"}, {"pair_id": "q", "pred": "9/10"}]
    files = {"eval/after_judgements.jsonl": "".join(json.dumps(line) + "\n" for line in lines)}
    run = read_run(bare_run(tmp_path, files))
    expected = "eval/after_judgements.jsonl: 1 verdict is not 1, 2 or tie and counted as unparsed; the first is "
    assert [note.startswith(expected) and note.endswith(" of pair p.") for note in run.notes] == [True] * strange
    assert all(len(note) < 500 for note in run.notes)


@pytest.mark.parametrize("name", ["run.json", "train/metrics.jsonl", "eval/after.json", "eval/after_judgements.jsonl"])
@pytest.mark.parametrize("target", ["{private}", "/dev/zero", "fifo"])
def test_links_out_of_the_folder_are_not_followed(tmp_path: Path, name: str, target: str) -> None:
    private = tmp_path / "private"
    private.write_text('{"name": "secret", "pair_id": "secret", "step": 1, "data": {}}\n', encoding="utf-8")
    folder = bare_run(tmp_path / "run", {"judge.json": "{}", "train/x": "", "eval/x": "", "judgements.jsonl": ""})
    (folder / name).unlink(missing_ok=True)
    if target == "fifo":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(target.format(private=private))
    run = read_run(folder)
    assert "secret" not in repr(run)
    linked = [f"{name} is a link to outside the run's folder and is not followed."] if "private" in target else []
    assert run.notes == linked


def test_a_folder_of_no_run_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="give the folder of a run"):
        read_run(tmp_path)


def test_runs_are_told_apart_by_the_end_of_their_path_or_by_name(tmp_path: Path) -> None:
    for folder in ("a/demo", "b/demo", "a/x=y"):
        bare_run(tmp_path / folder, {})
    given = [str(tmp_path / folder) for folder in ("a/demo", "b/demo", "a/x=y")]
    assert [run.label for run in read_runs(given)] == ["a/demo", "b/demo", "a/x=y"]
    assert [run.label for run in read_runs([given[0]])] == ["demo"]
    named = [f"first={given[0]}", f"second={given[1]}", f"third={given[2]}"]
    assert [(run.label, run.root) for run in read_runs(named)] == [
        ("first", tmp_path / "a/demo"),
        ("second", tmp_path / "b/demo"),
        ("third", tmp_path / "a/x=y"),
    ]
    for twice in ([given[0], given[0]], [f"one={given[0]}", f"one={given[1]}"]):
        with pytest.raises(ReportError, match="give each folder once, or a name"):
            read_runs(twice)
    with pytest.raises(ReportError, match=r"^nowhere: .* holds none of run\.json"):
        read_runs([given[0], f"nowhere={tmp_path}"])


def test_last_line_of_a_step_counts_and_steps_are_in_order(tmp_path: Path) -> None:
    lines = [(1, 0.1), (3, 0.3), (2, 0.2), (3, 0.9)]
    text = "".join(json.dumps({"step": step, "data": {"a": value}}) + "\n" for step, value in lines)
    run = read_run(bare_run(tmp_path, {"train/metrics.jsonl": text}))
    assert [(step.step, step.data["a"]) for step in run.steps] == [(1, 0.1), (2, 0.2), (3, 0.9)]


def test_evaluations_are_found_flat_and_in_folders_before_first(tmp_path: Path) -> None:
    files = {
        "eval/after/eval.json": '{"metrics": {"a": {"value": 1}}}',
        "eval/after/judgements.jsonl": JUDGED,
        "eval/before.json": '{"metrics": {"a": {"value": null}}}',
        "eval/before_judgements.jsonl": JUDGED * 2,
        "eval/a_third.json": "{}",
    }
    run = read_run(bare_run(tmp_path, files))
    measured = run.of_kind("held-out")
    assert {name: len(one.judgements) for name, one in measured.items()} == {"before": 2, "after": 1, "a_third": 0}
    assert measured["before"].evaluation.metrics["a"].value is None


def test_policy_figures_are_found_under_either_name(tmp_path: Path) -> None:
    figures = '{"policy/chart/a": {"value": 0.5, "n": 3}}'
    files = {"policy_eval.json": f'{{"figures": {figures}, "settings": {{"suite": "s"}}}}'}
    (old,) = read_run(bare_run(tmp_path / "old", files)).measured
    files = {"eval_policy.json": f'{{"metrics": {figures}, "suite": "s", "reading": {{}}}}'}
    (new,) = read_run(bare_run(tmp_path / "new", files)).measured
    assert (old.evaluation, old.settings) == (new.evaluation, new.settings)


def test_nan_is_no_number(tmp_path: Path) -> None:
    (one,) = read_run(
        bare_run(tmp_path, {"eval/after.json": '{"metrics": {"a": {"value": NaN, "low": 0.1}}}'})
    ).measured
    assert (one.evaluation.metrics["a"].value, one.evaluation.metrics["a"].low) == (None, 0.1)


def test_null_and_numbers_read_as_text(tmp_path: Path) -> None:
    line = {"pair_id": 7, "order": 0, "pred": None, "response": None, "image_blake3": None, "error": None}
    run = read_run(bare_run(tmp_path, {"eval/after_judgements.jsonl": json.dumps(line) + "\n"}))
    judged = run.of_kind("held-out")["after"].judgements[0]
    assert (judged.pair_id, judged.order, judged.pred, judged.response) == ("7", "0", "", "")


def test_only_the_last_rollouts_are_read_and_their_lines_keep_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_files, "LAST_ROLLOUTS", 3)
    shared = {"data_source": "critic/made", "response": "<think>so</think>\\boxed{1}", "pred": "1", "reason": "ok"}
    lines = [json.dumps(shared | {"step": step, "acc": step % 2, "image": ["a", "b"]}) for step in range(1, 7)]
    text = "not even parsed\n" + "".join(f"{line}\n" for line in lines)
    run = read_run(bare_run(tmp_path, {"train/samples.jsonl": text}))
    assert [(judged.category, judged.correct) for judged in run.rollouts] == [
        ("critic/made, step 4", False),
        ("critic/made, step 5", True),
        ("critic/made, step 6", False),
    ]
    assert run.rollouts[0].image_blake3 == blake3(b"a\nb").hexdigest(), "as judging names a row's images"
    assert run.notes == []
