"""Pairs by known answers: right against wrong, without a critic."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.checks.rows import check_parquet
from data_prep.tasks.pairwise import Image, PolicyTask
from data_prep.writer import write_parquet
from tests.judging.fake_server import Behaviour, say
from tests.labeling.conftest import Label, png, rows_with_images, served


def vqa(folder: Path, *rows: dict[str, Any]) -> Path:
    """Questions with answers."""
    return rows_with_images(folder / "vqa", [{"answer": "5"} | row for row in rows])


def policy(*responses: object) -> Behaviour:
    return served(samples=lambda i: responses[i])


RIGHT_AND_WRONG = policy(say(5), say(6))


def test_right_is_paired_with_wrong_and_no_critic_is_asked(tmp_path: Path, label: Label) -> None:
    """Of eight samples five are wrong in two ways, two are right, and one has no box."""
    by = policy(say(7), say(5), say(9), say(7), say("5 wibbles"), say("9."), say(7), "No idea.")
    command = (vqa(tmp_path, {}, {}), "--truth", "--samples", 8, "--orders", "both", "--policy-model", "pupil")
    found = label(*command, by=by)
    assert [body["model"] for body in found.asked] == ["pupil", "pupil"]
    text = found.asked[0]["messages"][0]["content"][1]["text"]
    assert text.startswith("How many?\n\n")
    assert text.endswith("inside \\boxed{}.")
    assert label(*command, by=by).asked == [], "the second run costs nothing"
    report = found.report
    assert report["counts"] == {
        "prompts": {"read": 2, "used": 2, "rejected": 0},
        "responses": {"drawn": 16, "no_answer": 2, "right": 2, "undecided": 2, "wrong": 10},
        "pairs": {"labelled": 4},
        "judgements": {},
    }
    assert (report["labels"], report["swap_consistency"]) == ("answers", None)
    assert "critic" not in report
    log = found.lines("judged.jsonl")
    assert [(row["response_1"], row["response_2"].replace("9.", "9"), row["chosen"]) for row in log[:2]] == [
        (say(5), say(7), 1),
        (say(5), say(9), 1),
    ], "the most frequent wrong answer first"
    assert [(row["answer"], row["times"]) for row in log[:2]] == [("5", 3), ("5", 2)]
    assert check_parquet(found.out / "tasks").ok
    assert report["rows"] == {"tasks": {"train": 8}, "dpo": {"train": 4}}
    meta = [json.loads(row["extra_info"]["meta"]) for row in found.tasks()]
    assert [(one["answer"], one["times"]) for one in meta[:4]] == [("5", 3), ("5", 3), ("5", 2), ("5", 2)]


@pytest.mark.parametrize(
    ("responses", "shown", "pairs", "counts"),
    [
        ([say(5), say(5)], "response", [], {"no-wrong-response": 1}),
        ([say(7), say(8)], "response", [], {"no-right-response": 1}),
        # With answers only, the known one takes the place of a right response; it is no text for DPO.
        ([say(7), say(8)], "answer", [("5", "7"), ("5", "8")], {"used": 1}),
        ([say(7), say("5.0")], "answer", [("5.0", "7")], {"used": 1}),
        ([f"One. {say(7)}", f"Two. {say(7)}"], "answer", [("5", "7")], {"used": 1}),
        (["7", "5"], "answer", [], {"no-wrong-response": 1}),
        (["", say(5)], "answer", [], {"no-wrong-response": 1}),
    ],
)
def test_what_is_paired(
    responses: list[str],
    shown: str,
    pairs: list[tuple[str, str]],
    counts: dict[str, int],
    tmp_path: Path,
    label: Label,
) -> None:
    options = ("--truth", "--samples", 2, "--shown", shown)
    found = label(vqa(tmp_path, {}), *options, by=policy(*responses), status=0 if pairs else 1)
    assert sorted((row["response_1"], row["response_2"]) for row in found.lines("judged.jsonl")) == pairs
    assert found.counts["prompts"] == {"read": 1, "rejected": 0} | counts
    sampled = [pair for pair in pairs if pair[0] != "5"]
    assert found.report["rows"]["dpo"] == ({"train": len(sampled)} if sampled else {})
    for line in found.lines("dpo/train.jsonl") if sampled else []:
        assert line["chosen"][0]["content"] == say("5.0"), "what the policy wrote"


def test_a_response_that_was_cut_off_is_neither_right_nor_wrong(tmp_path: Path, label: Label) -> None:
    def behaviour(attempt: int, body: dict[str, Any]) -> Any:
        made: Any = policy(say(5), say(7), say(9))(attempt, body)
        made["choices"][1]["finish_reason"] = "length"
        return made

    found = label(vqa(tmp_path, {}), "--truth", "--samples", 3, by=behaviour)
    assert found.counts["responses"] == {"cut_off": 1, "drawn": 3, "empty": 1, "right": 1, "wrong": 1}


def test_responses_that_a_row_has_are_checked_and_fewer_pairs_taken(tmp_path: Path, label: Label) -> None:
    data = vqa(tmp_path, {"responses": [say(n) for n in (1, 2, 2, 5, 3, 3, 3)]})
    found = label(data, "--truth", "--max-pairs", 2)
    assert found.asked == []
    assert found.counts["pairs"] == {"labelled": 2, "not_drawn": 1}
    assert [row["response_2"] for row in found.lines("judged.jsonl")] == [say(3), say(2)]


def test_our_policy_rows_are_asked_as_they_are(tmp_path: Path, label: Label) -> None:
    write_parquet([PolicyTask("s", (Image(png(3)),), "How many?", "5")], tmp_path / "own")
    found = label(tmp_path / "own", "--truth", "--samples", 2, by=RIGHT_AND_WRONG)
    assert found.asked[0]["messages"][0]["content"][1]["text"] == "How many?"


def test_a_row_in_verls_form_brings_its_prompt_and_answer(tmp_path: Path, label: Label) -> None:
    turns = [{"role": "system", "content": "Box it."}, {"role": "user", "content": "<image>How many?"}]
    row = {"data_source": "other/geometry", "prompt": turns, "reward_model": {"ground_truth": "5"}, "question": None}
    found = label(vqa(tmp_path, row | {"answer": None}), "--truth", "--samples", 2, by=RIGHT_AND_WRONG)
    assert [message["role"] for message in found.asked[0]["messages"]] == ["system", "user"]
    assert [line["question"] for line in found.lines("judged.jsonl")] == ["How many?"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer": None}, "missing-field"),
        ({"answer": ""}, "bad-label"),
        ({"answer": {"text": "5"}}, "wrong-type"),
        ({"answer": "5" * 100_000}, "bad-label"),
        ({"image": "0.png", "answer": "6"}, "contradiction"),
        ({"data_source": "critic/x", "reward_model": {"ground_truth": "1"}, "answer": None}, "missing-field"),
    ],
)
def test_a_bad_answer_is_named_before_anything_is_paid(
    row: dict[str, Any], reason: str, tmp_path: Path, label: Label
) -> None:
    command = (vqa(tmp_path, {}, row, {}), "--truth", "--samples", 2)
    found = label(*command, by=RIGHT_AND_WRONG, status=2)
    assert found.asked == []
    assert [(line["row"], line["reason"]) for line in found.lines("rejected.jsonl")] == [(1, reason)]
    found = label(*command, "--skip-bad-rows", by=RIGHT_AND_WRONG)
    assert found.counts["prompts"] == {"read": 3, "rejected": 1, "used": 2}


def test_a_killed_run_resumes(tmp_path: Path, label: Label) -> None:
    """One question is answered, the other refused; the same command asks for the other only."""
    first: list[str] = []

    def half(attempt: int, body: dict[str, Any]) -> Any:
        first.append(json.dumps(body["messages"]))
        return "400" if json.dumps(body["messages"]) != first[0] else RIGHT_AND_WRONG(attempt, body)

    command = (vqa(tmp_path, {}, {}), "--truth", "--samples", 2)
    label(*command, by=half, status=1)
    found = label(*command, by=RIGHT_AND_WRONG)
    assert len(found.asked) == 1
    assert found.counts["pairs"] == {"labelled": 2}
