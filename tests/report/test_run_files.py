"""What a run directory may lack, and what a malformed file in it must say."""

import json
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


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("run.json", '{\n "name": "x",\n oops}', "run.json, line 3: not JSON"),
        ("run.json", '{"seed": 1}', "run.json: name: Field required"),
        ("run.json", '{"name": "x", "stages": [{"seconds": 1}]}', "run.json: stages.0.name: Field required"),
        ("train/metrics.jsonl", STEP + "oops\n" + STEP, "train/metrics.jsonl, line 2: not JSON"),
        ("train/metrics.jsonl", STEP + "\n" + '{"data": {}}\n', "train/metrics.jsonl, line 3: step: Field required"),
        ("train/metrics.jsonl", STEP + '{"step": "two", "data": {}}\n', "train/metrics.jsonl, line 2: step: Input"),
        # Whole JSON of the wrong shape is no torn line, newline or not.
        ("train/metrics.jsonl", STEP + "[1]", "train/metrics.jsonl, line 2: the whole record"),
        ("eval/after.json", '{"metrics": {"a": {"value": "high"}}}', "eval/after.json: metrics.a.value: Input"),
        ("eval/after.json", '{"metrics":\n [', "eval/after.json, line 2: not JSON"),
        ("eval/after_judgements.jsonl", JUDGED * 2 + "{}\n", "eval/after_judgements.jsonl, line 3: pair_id: Field"),
        ("eval/after/judgements.jsonl", JUDGED + "{\n", "eval/after/judgements.jsonl, line 2: not JSON"),
        ("judge.json", '{"metrics": {"a": 1}}', "judge.json: metrics.a: Input"),
        ("best_of_n.json", '{"curves": {"oracle": [{"value": 1}]}}', "best_of_n.json: curves.oracle.0.n_candidates"),
        ("eval_policy.json", "{}", "eval_policy.json: metrics: Field required"),
    ],
)
def test_malformed_file_is_named_with_its_line(tmp_path: Path, name: str, text: str, expected: str) -> None:
    with pytest.raises(ReportError) as caught:
        read_run(bare_run(tmp_path, {name: text}))
    assert str(caught.value).startswith(expected)
    assert "remove" in str(caught.value), "the message must say what to do"


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    bare_run(tmp_path, {})
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metrics.jsonl").write_bytes(STEP.encode() + b'{"step": 2, "data": {"\xff": 1}}\n')
    with pytest.raises(ReportError, match=r"train/metrics\.jsonl, line 2: not JSON"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_bytes(b'{"name": "\xff"}')
    with pytest.raises(ReportError, match=r"run\.json: not UTF-8"):
        read_run(tmp_path)


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
    with pytest.raises(ReportError, match=r"^nowhere: .*run\.json is missing"):
        read_runs([given[0], f"nowhere={tmp_path}"])


def test_torn_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    run = read_run(bare_run(tmp_path, {"train/metrics.jsonl": STEP + '{"step": 2, "da'}))
    assert [step.step for step in run.steps] == [1]
    assert run.notes == ["train/metrics.jsonl: line 2 is cut off, as a killed run leaves it; left out."]


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

    bare_run(tmp_path, {"train/samples.jsonl": text + '{"step": "seven"}\n'})
    with pytest.raises(ReportError, match=r"^train/samples\.jsonl, line 8: step: "):
        read_run(tmp_path)
