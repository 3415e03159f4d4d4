"""The demo's evaluation on a handful of made-up images, with a scripted engine in the place of vLLM."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data_prep.tasks.pairwise import Image, PolicyTask, PreferencePair, PreferenceTask
from data_prep.tasks.prompts import get_template
from data_prep.writer import ShardWriter
from recipe.critic_r1.demo.evaluate import evaluate, load_test_data, run, write_results
from recipe.critic_r1.judging.generation import Generation, GenerationRequest, TextPart
from recipe.critic_r1.selection.candidates import load_pools

DIGITS = (3, 5, 8, 0, 4, 4, 9, 1)


class Engine:
    """A critic that sees the digit in the image's bytes; a policy that is right in the first 3 of its 8 samples and
    when it is greedy for even digits."""

    def __init__(self, *, fails_at: int = -1, sees: bool = True) -> None:
        self.fails_at, self.sees = fails_at, sees
        self.requests: list[GenerationRequest] = []

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        self.requests += requests
        return [
            Generation((), error="prompt too long")
            if i == self.fails_at
            else Generation(tuple(self._say(r, k) for k in range(r.sampling.n)))
            for i, r in enumerate(requests)
        ]

    def _say(self, request: GenerationRequest, k: int) -> str:
        digit = int(request.images[0].data[-1:])
        text = "".join(p.text for m in request.messages for p in m.parts if isinstance(p, TextPart))
        pair = re.search(r"Response 1: (\d)\nResponse 2: (\d)", text)
        if pair:
            said = "1" if not self.sees or int(pair[1]) == digit else "2"
        elif request.sampling.temperature == 0:
            said = str(digit if digit % 2 == 0 else (digit + 1) % 10)
        else:
            said = str(digit if k < 3 else (digit + k) % 10)
        return f"<think>I see.</think>\\boxed{{{said}}}"


def write_data(folder: Path, split: str = "test", template: str = "compact") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with ShardWriter(folder / f"{split}-{template}.parquet") as writer:
        for index, digit in enumerate(DIGITS):
            image = Image(f"PNG {index} {digit}".encode())
            pair = PreferencePair("digits", (image,), "What digit is shown?", (str(digit), str((digit + 3) % 10)), 0)
            for order in (0, 1):
                writer.write(PreferenceTask(pair, order, split, index, get_template(template)).row())
            writer.write(PolicyTask("digits", (image,), "What digit is shown?", str(digit), split, index).row())
    return folder


def test_every_figure_of_a_model_that_is_known(tmp_path: Path) -> None:
    data = load_test_data([write_data(tmp_path / "data")])
    engine = Engine()
    lines: list[str] = []
    found = evaluate(engine, data, seed=1, progress=lines.append)
    values = {name: estimate.value for name, estimate in found.metrics.items()}
    even = sum(digit % 2 == 0 for digit in DIGITS) / len(DIGITS)
    assert values == pytest.approx(
        {
            "critic/accuracy": 1,
            "critic/accuracy_better_first": 1,
            "critic/accuracy_better_second": 1,
            "critic/accuracy_readable": 1,
            "critic/accuracy_both_orders": 1,
            "critic/swap_consistency": 1,
            "critic/position_bias": 0,
            "critic/format_rate": 1,
            "critic/parse_failures": 0,
            "critic/request_failures": 0,
            "policy/greedy": even,
            "policy/greedy_format_rate": 1,
            "policy/sampled": 3 / 8,
            "policy/sampled_format_rate": 1,
            "best_of_8/knock_out": 1,
            "best_of_8/one_sample": 3 / 8,
            "best_of_8/majority": 1,
            "best_of_8/oracle": 1,
            "best_of_8/knock_out_minus_one_sample": 5 / 8,
            "best_of_8/knock_out_minus_majority": 0,
            "best_of_8/knock_out_minus_greedy": 1 - even,
        }
    )
    assert all(e.low <= e.value <= e.high for e in found.metrics.values())  # type: ignore[operator]
    assert [p["n_candidates"] for p in found.curves["best_of_8/knock_out"]] == [1, 2, 4, 8]
    assert found.bills["best_of_8"]["matches"] <= 7 * len(DIGITS)
    assert [line.split(":")[0] for line in lines] == ["critic", "policy, greedy", "policy, sampled", "self-critique"]


def test_questions_that_were_never_judged_are_measured_apart(tmp_path: Path) -> None:
    alone = evaluate(Engine(), load_test_data([write_data(tmp_path / "data")]), seed=1)
    with ShardWriter(tmp_path / "data" / "more.parquet") as writer:
        for index, (digit, kind) in enumerate([(3, "odd"), (5, "odd"), (4, "even"), (7, "odd")]):
            image = Image(f"PNG {100 + index} {digit}".encode())
            writer.write(PolicyTask("digits_unjudged", (image,), "Which?", str(digit), "test", index, kind).row())
    data = load_test_data([tmp_path / "data"])
    assert (len(data.problems), len(data.unjudged)) == (len(DIGITS), 4)
    metrics = evaluate(Engine(), data, seed=1).metrics
    found = {name: metrics.pop(f"policy/greedy/{name}").value for name in ("unjudged", "even", "odd")}
    assert found == {"unjudged": 0.25, "even": 1, "odd": 0}
    assert metrics == alone.metrics


def test_matches_use_the_prompt_of_training(tmp_path: Path) -> None:
    """A pair in a match is asked for in the very words of a critic row."""
    data = load_test_data([write_data(tmp_path / "data")])
    engine = Engine()
    evaluate(engine, data)
    rows = {task.messages for task in data.tasks}
    asked = [r.messages for r in engine.requests if r.sampling.n == 1 and "Response 1" in str(r.messages)]
    assert len(asked) > len(rows)
    assert len([messages for messages in asked if messages in rows]) > len(rows), (
        "the pairs of the rows are played again"
    )


def test_a_judge_without_eyes_is_found_out(tmp_path: Path) -> None:
    data = load_test_data([write_data(tmp_path / "data")])
    metrics = evaluate(Engine(sees=False), data).metrics
    assert metrics["critic/accuracy"].value == 0.5
    assert metrics["critic/position_bias"].value == 1
    assert metrics["critic/swap_consistency"].value == 0


def test_another_policys_candidates_are_judged_too(tmp_path: Path) -> None:
    data = load_test_data([write_data(tmp_path / "data")])
    found = evaluate(Engine(), data)
    write_results(found, tmp_path / "out" / "eval.json", {"tag": "before"})
    pools = load_pools(tmp_path / "out" / "candidates.jsonl", data.problems)
    again = evaluate(Engine(sees=False), data, other_pools=pools)
    assert again.metrics["best_of_8_other/oracle"].value == 1
    assert again.metrics["best_of_8_other/one_sample"].value == 3 / 8
    assert set(again.bills) == {"best_of_8", "best_of_8_other"}


def test_what_is_written(tmp_path: Path) -> None:
    data = load_test_data([write_data(tmp_path / "data")])
    out = tmp_path / "results" / "before.json"
    write_results(evaluate(Engine(), data), out, {"tag": "before", "seed": 0})
    result = json.loads(out.read_text())
    assert result["tag"] == "before"
    assert set(result["metrics"]["critic/accuracy"]) == {"value", "low", "high", "n"}
    assert set(result["curves"]) == {f"best_of_8/{s}" for s in ("knock_out", "one_sample", "majority", "oracle")}
    judgements = [json.loads(line) for line in (out.parent / "judgements.jsonl").read_text().splitlines()]
    assert len(judgements) == 2 * len(DIGITS)
    wanted = {"pair_id", "order", "image_blake3", "question", "response_1", "response_2", "response", "thinking",
              "pred", "ground_truth", "correct", "reason"}  # fmt: skip
    assert wanted <= set(judgements[0])
    assert [p.name for p in sorted(out.parent.iterdir())] == ["before.json", "candidates.jsonl", "judgements.jsonl"]


def test_a_failing_engine_stops_the_evaluation(tmp_path: Path) -> None:
    data = load_test_data([write_data(tmp_path / "data")])
    with pytest.raises(RuntimeError, match="1 of 16 judgements failed, first: prompt too long"):
        evaluate(Engine(fails_at=2), data)


def test_training_rows_are_not_measured(tmp_path: Path) -> None:
    write_data(tmp_path / "data", "train")
    with pytest.raises(ValueError, match="no critic row with split 'test'"):
        load_test_data([tmp_path / "data"])
    write_data(tmp_path / "data", "test")
    assert len(load_test_data([tmp_path / "data"]).tasks) == 2 * len(DIGITS)


def test_two_templates_are_refused(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    write_data(tmp_path / "data", template="critic")
    with pytest.raises(ValueError, match=r"templates \['compact', 'critic'\]; one is expected"):
        load_test_data([tmp_path / "data"])


def test_input_is_checked_before_an_engine_starts(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="prepare"):
        run(tmp_path / "model", [tmp_path], tmp_path / "out.json")
    data = write_data(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        run(tmp_path / "model", [data], tmp_path / "out.json")
    (tmp_path / "candidates.jsonl").write_text("")
    with pytest.raises(ValueError, match="no candidates for 8 of 8 problems"):
        run(tmp_path / "model", [data], tmp_path / "out.json", candidates=tmp_path / "candidates.jsonl")


def test_a_broken_row_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    row: dict[str, Any] = PolicyTask("digits", (Image(b"x"),), "What?", "1", "test").row()
    row["prompt"][0]["content"] = "no marker"
    with ShardWriter(folder / "test.parquet") as writer:
        writer.write(row)
    with pytest.raises(ValueError, match=r"test\.parquet row 0: the prompt has 0 <image> marker"):
        load_test_data([folder])
