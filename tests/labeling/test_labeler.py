"""Labelling with a critic from prompts to tasks and DPO data: what is written, and what a second run costs."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from data_prep.checks.rows import check_parquet
from tests.judging.fake_server import FakeServer, say
from tests.labeling.conftest import APP, Label, larger, served, words

WRITTEN = ("judged.jsonl", "dpo/train.jsonl", "tasks/train-00000.parquet")


def test_from_prompts_to_both_forms(data: Path, label: Label) -> None:
    found = label(data)
    assert len(found.asked) == 6 * 3 * 2
    assert label(data).asked == [], "the second run costs nothing"
    assert found.counts["prompts"] == {"read": 6, "used": 6, "rejected": 0}
    assert found.counts["pairs"] == {"labelled": 18}
    assert found.report["rows"] == {"tasks": {"train": 18}, "dpo": {"train": 18}}
    assert found.report["swap_consistency"] == 1

    rows = found.tasks()
    assert len(rows) == 18
    for row in rows:
        info, truth = row["extra_info"], row["reward_model"]["ground_truth"]
        shown = [int(info["response_1"]), int(info["response_2"])]
        assert shown[int(truth) - 1] == max(shown)
        assert row["data_source"] == "critic/labelled"
        meta = json.loads(info["meta"])
        assert (meta["confidence"], meta["critic"], meta["votes"][0]) == (1.0, "critic", meta["votes"][1])
    assert sum(row["reward_model"]["ground_truth"] == "1" for row in rows) == 9
    assert {row["extra_info"]["source_id"] for row in rows} == {f"row-{i}" for i in range(6)}

    dpo, table = found.lines("dpo/train.jsonl"), pq.read_table(found.out / "dpo" / "train.parquet").to_pylist()
    assert [{k: v for k, v in row.items() if k != "images"} for row in table] == [
        {k: v for k, v in row.items() if k != "images"} for row in dpo
    ]
    for row, line in zip(table, dpo, strict=True):
        assert row["prompt"] == [{"role": "user", "content": "How many?"}]
        assert int(row["chosen"][0]["content"]) > int(row["rejected"][0]["content"])
        assert (found.out / "dpo" / line["images"][0]).read_bytes() == row["images"][0]["bytes"]
        assert line["images"][0].endswith(".png")


def test_the_tasks_pass_validate(data: Path, label: Label) -> None:
    report = check_parquet(label(data, "--orders", "both").out / "tasks")
    assert (report.ok, report.rows) == (True, 36)


def test_datasets_opens_the_images(data: Path, label: Label, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    file = str(label(data).out / "dpo" / "train.parquet")
    row = datasets.Dataset.from_parquet(file, cache_dir=str(tmp_path / "cache"))[0]
    assert row["images"][0].size == (8, 8)


def test_a_critic_with_a_habit_labels_nothing(data: Path, label: Label) -> None:
    label(data)
    options = ("--seed", 1, "--verdicts", "lenient", "--max-tokens", 99)
    found = label(data, *options, by=served(lambda a, b: 1), status=1)
    assert "no pair was labelled" in found.output
    assert found.counts["pairs"] == {"inconsistent": 18}
    assert found.report["swap_consistency"] == 0
    assert len(found.lines("judged.jsonl")) == 18
    # What the first run wrote would pass for the second's.
    assert [*(found.out / "tasks").glob("*"), *(found.out / "dpo").glob("train.*")] == []


def test_every_pair_is_in_the_log_whatever_became_of_it(data: Path, label: Label) -> None:
    """5 beats the others; between 1 and 3 the first place decides."""
    found = label(data, by=served(lambda a, b: larger(a, b) if 5 in (a, b) else 1))
    assert found.counts["pairs"] == {"inconsistent": 6, "labelled": 12}
    assert found.report["swap_consistency"] == pytest.approx(2 / 3)
    log = found.lines("judged.jsonl")
    assert len(log) == 18
    lost = [line for line in log if line["outcome"] == "inconsistent"]
    assert {(line["response_1"], line["response_2"]) for line in lost} == {("1", "3")}
    assert all(line["votes"] == [["1"], ["2"]] and line["confidence"] is None for line in lost)


def test_votes_and_least_confidence(data: Path, label: Label) -> None:
    """Three of four votes in each order: confidence 0.75 is enough for 0.75 and not for 0.8."""

    def behaviour(attempt: int, body: dict[str, Any]) -> Any:
        made: Any = served()(attempt, body)
        right = made["choices"][0]["message"]["content"]
        made["choices"][3]["message"]["content"] = say(1) if right == say(2) else say(2)
        return made

    options = ("--votes", 4, "--temperature", 1.0)
    found = label(data, *options, by=behaviour)
    assert {row["confidence"] for row in found.lines("dpo/train.jsonl")} == {0.75}
    found = label(data, *options, "--min-confidence", 0.8, by=behaviour, status=1)
    assert found.asked == [], "another threshold is free"
    assert found.counts["pairs"] == {"low_confidence": 18}


def test_responses_are_sampled_and_kept(without_responses: Path, label: Label) -> None:
    behaviour = served(samples=lambda i: min(i, 2))  # of four samples two are the same
    options = ("--samples", 4, "--policy-model", "pupil")
    found = label(without_responses, *options, by=behaviour)
    sampled = [body["n"] for body in found.asked if body["model"] == "pupil"]
    assert (sampled, len(found.asked)) == ([4] * 6, 6 + 6 * 3 * 2)
    assert label(without_responses, *options, by=behaviour).asked == []
    assert found.counts["responses"] == {"drawn": 24, "repeated": 6}
    assert found.counts["pairs"] == {"labelled": 18}
    assert found.report["policy"] == "pupil"


def test_every_row_can_be_sampled_anew_and_answers_compared(data: Path, label: Label) -> None:
    """The critic sees the final answers; what is learned for DPO is the text that the policy wrote."""
    # Two samples with one answer, one without an answer.
    samples = (f"One. {say(4)}", f"Two. {say(4)}", f"Three. {say(9)}", "Four?")
    options = ("--samples", 4, "--redraw", "--shown", "answer", "--orders", "as_is")
    found = label(data, *options, by=served(samples=lambda i: samples[i]))
    assert found.counts["responses"] == {"drawn": 24, "empty": 6, "repeated": 6}
    assert found.report["shown"] == "answer"
    shown = {(row["extra_info"]["response_1"], row["extra_info"]["response_2"]) for row in found.tasks()}
    assert shown == {("4", "9")}
    for line in found.lines("dpo/train.jsonl"):
        assert (line["chosen"][0]["content"], line["rejected"][0]["content"]) == (samples[2], samples[0])


def test_what_failed_is_asked_again_and_only_that(data: Path, label: Label) -> None:
    found = label(data, by=served(lambda a, b: "400" if (a, b) == (5, 3) else larger(a, b)), status=1)
    assert "pairs or prompts failed: run the same command again" in found.output
    assert found.counts["pairs"] == {"labelled": 12, "request_failed": 6}
    again, undisturbed = label(data), label(data, out="undisturbed")
    assert len(again.asked) == 6
    for name in WRITTEN:
        assert (again.out / name).read_bytes() == (undisturbed.out / name).read_bytes(), name


def test_a_killed_run_resumes(data: Path, label: Label, tmp_path: Path) -> None:
    out = tmp_path / "out"
    gate, lock, seen = threading.Event(), threading.Lock(), []

    def behaviour(attempt: int, body: dict[str, Any]) -> Any:
        """Ten answers, then silence until the client is gone."""
        with lock:
            seen.append(body)
            late = 10 < len(seen) <= 36
        if not late:
            return served()(attempt, body)
        gate.wait()
        return "hang up"

    with FakeServer(behaviour) as server:
        code = "from tests.labeling.conftest import APP; APP()"
        command = [sys.executable, "-c", code, *words(server.url, data, out)]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        try:
            journal = out / "answers.jsonl"
            # All requests have arrived, so none of the killed client's can be taken for one of the next.
            while len(seen) < 36 or not journal.exists() or journal.read_bytes().count(b"\n") < 10:
                assert process.poll() is None, "ended before it was killed"
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
        gate.set()
        assert not (out / "label.json").exists()
        assert CliRunner().invoke(APP, words(server.url, data, out)).exit_code == 0
        assert len(server.answered) == 36
        assert set(server.answered.values()) == {1}, "no request is paid twice"
    undisturbed = label(data, out="undisturbed").out
    for name in WRITTEN:
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert [p.name for p in (out / "tasks").glob(".*")] == []


def test_sampling_that_failed_is_counted(without_responses: Path, label: Label) -> None:
    def image_of(body: dict[str, Any]) -> str:
        return json.dumps(body["messages"][0]["content"][0])

    def behaviour(attempt: int, body: dict[str, Any]) -> Any:
        return "400" if image_of(body) == broken and body["n"] == 2 else served()(attempt, body)

    broken = image_of(label(without_responses, "--samples", 2).asked[0])
    found = label(without_responses, "--samples", 2, by=behaviour, out="again", status=1)
    assert found.counts["prompts"] == {"read": 6, "used": 5, "sampling-failed": 1, "rejected": 0}
    assert [line["reason"] for line in found.lines("rejected.jsonl")] == ["sampling-failed"]


def test_a_share_goes_to_val_by_image(data: Path, label: Label) -> None:
    found = label(data, "--val-share", 0.5)
    rows = found.report["rows"]
    assert rows["tasks"] == rows["dpo"]
    assert set(rows["dpo"]) == {"train", "val"}
    images = {name: {line["images"][0] for line in found.lines(f"dpo/{name}.jsonl")} for name in rows["dpo"]}
    assert not images["train"] & images["val"]
    assert sum(rows["dpo"].values()) == 18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--votes", 3), "set a temperature"),
        (("--orders", "odd"), "'odd' is not one of 'balanced', 'both', 'as_is'"),
        (("--verdicts", "kind"), "'kind' is not one of 'strict', 'lenient'"),
        (("--samples", 1), "take 2 or more"),
        (("--redraw",), "--redraw needs --samples"),
        (("--shown", "half"), "'half' is not one of 'answer', 'response'"),
        (("--min-confidence", 2), "from 0 to 1"),
        (("--truth", "--samples", 2, "--votes", 2, "--temperature", 1.0), "--truth asks no critic"),
    ],
)
def test_impossible_wishes_are_refused(data: Path, label: Label, options: tuple[object, ...], message: str) -> None:
    found = label(data, *options, status=2)
    assert message in found.output
    assert found.asked == []
