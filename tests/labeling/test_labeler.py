"""Labelling pairs with a critic: what is read, what is asked, what is decided, and what is written."""

import io
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from data_prep.checks.rows import check_parquet
from data_prep.tasks.pairwise import Image, PolicyTask, PreferencePair, PreferenceTask
from data_prep.writer import write_parquet
from recipe.critic_r1.cli.label import register
from recipe.critic_r1.judging.generation import Generation, Sampling
from recipe.critic_r1.judging.pairwise import Judgement, judgement_of
from recipe.critic_r1.labeling.labeler import Labeller, LabelSettings, ResponsePair, decide, judge_task
from recipe.critic_r1.labeling.questions import LabelPrompt, LostRow, read_prompts
from tests.judging.fake_server import FakeServer, answer

APP = typer.Typer(no_args_is_help=True)
register(APP)


@APP.callback()
def _group() -> None:
    """Keeps `label` a command of its own although it is the only one."""


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("L", (8, 8), shade).save(stream, "PNG")
    return stream.getvalue()


def box(choice: object) -> str:
    return f"<think>Compared.</think>\\boxed{{{choice}}}"


def prompt(*responses: str, shade: int = 0) -> LabelPrompt:
    return LabelPrompt("f.jsonl", 0, "", (Image(png(shade)),), "How many?", responses)


def larger(first: int, second: int) -> int:
    return 1 if first > second else 2


Critic = Callable[[int, int], object]


def served(critic: Critic = larger, samples: Callable[[int], object] = lambda i: i) -> Any:
    """A server whose critic sees two numbers; its policy answers 0, 1, 2, ..."""

    def behaviour(attempt: int, body: dict[str, Any]) -> Any:
        text = "".join(part.get("text", "") for part in body["messages"][0]["content"])
        pair = re.search(r"Response 1: (\d+)\nResponse 2: (\d+)", text)
        if pair:
            verdict = critic(int(pair[1]), int(pair[2]))
            return verdict if isinstance(verdict, str) and verdict.isdigit() else answer(body, box(verdict))
        drawn = answer(body)
        for i, choice in enumerate(drawn["choices"]):
            choice["message"]["content"] = str(samples(i))
        return drawn

    return behaviour


def label(url: str, out: Path, *further: object) -> Any:
    command = ["label", *further, "--model", "critic", "--base-url", url, "--out", out, "--template", "compact"]
    return CliRunner().invoke(APP, [str(word) for word in command])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six prompts with three numbers each, as JSONL with images beside it."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    lines = []
    for i in range(6):
        (folder / "images" / f"{i}.png").write_bytes(png(i))
        row = {"id": f"row-{i}", "image": f"images/{i}.png", "question": "How many?", "responses": ["1", "5", "3"]}
        lines.append(json.dumps(row))
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "prompts.jsonl"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# What is decided


def judgements(forward: list[str] | None, backward: list[str] | None) -> tuple[ResponsePair, Judgement, Judgement]:
    """Judgements by the choices of the votes; None for a request that failed."""
    pair = ResponsePair(prompt("a", "b"), ("a", "b"))
    found = []
    for order, votes in enumerate((forward, backward)):
        task = judge_task(pair, order, LabelSettings(template="compact"))
        texts = () if votes is None else tuple(box(v) if v != "?" else "hm" for v in votes)
        found.append(judgement_of(task, Generation(texts, error="500" if votes is None else None)))
    return pair, found[0], found[1]


@pytest.mark.parametrize(
    ("forward", "backward", "outcome", "chosen", "confidence"),
    [
        (["1"], ["2"], "labelled", 0, 1.0),
        (["2"], ["1"], "labelled", 1, 1.0),
        (["1", "1", "1", "2"], ["2", "2", "2", "2"], "labelled", 0, 0.875),
        (["1", "1", "2"], ["2", "2", "2"], "labelled", 0, 5 / 6),
        (["1", "1", "2"], ["2", "2", "1"], "low_confidence", 0, 4 / 6),
        # An unreadable vote and a tie are votes for nobody: four of six.
        (["1", "1", "?"], ["2", "2", "tie"], "low_confidence", 0, 4 / 6),
        (["1"], ["1"], "inconsistent", None, None),
        (["2", "2"], ["2", "2"], "inconsistent", None, None),
        (["tie"], ["tie"], "tie", None, None),
        (["1"], ["tie"], "undecided", None, None),
        (["1", "2"], ["2", "2"], "undecided", None, None),
        (["?"], ["2"], "unreadable", None, None),
        (["1"], None, "request_failed", None, None),
        # Not taken for unreadable, although the other order is.
        (None, ["?"], "request_failed", None, None),
    ],
)
def test_decide(
    forward: list[str] | None,
    backward: list[str] | None,
    outcome: str,
    chosen: int | None,
    confidence: float | None,
) -> None:
    pair, first, second = judgements(forward, backward)
    found = decide(pair, first, second, LabelSettings(min_confidence=0.75))
    assert (found.outcome, found.chosen) == (outcome, chosen)
    assert found.confidence == pytest.approx(confidence)


def test_votes_are_told_as_the_pair_lists_its_responses() -> None:
    pair, first, second = judgements(["1", "?"], ["2", "tie"])
    assert decide(pair, first, second, LabelSettings()).votes() == [["1", None], ["1", "tie"]]


@pytest.mark.parametrize("wrong", [{"min_confidence": 1.5}, {"max_pairs": 0}, {"val_share": 1.0}, {"template": "odd"}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"from 0 to 1|1 or more|no template"):
        LabelSettings(**wrong)


# What is asked


class Recorder:
    """A critic that answers 1 and remembers what it saw."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def generate(self, requests: Any) -> list[Generation]:
        self.requests += requests
        return [Generation((box(1),) * r.sampling.n) for r in requests]

    def pairs(self) -> list[tuple[str, ...]]:
        texts = ["".join(getattr(p, "text", "") for p in r.messages[0].parts) for r in self.requests]
        return [re.search(r"Response 1: (.*)\nResponse 2: (.*)\n", text).groups() for text in texts]  # type: ignore[union-attr]


def test_each_pair_is_asked_in_both_orders_with_its_votes() -> None:
    critic = Recorder()
    settings = LabelSettings(Sampling(temperature=1.0, n=3, seed=1), template="compact")
    Labeller(critic, settings)([prompt("a", "b", "c")])
    assert critic.pairs() == [("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")]
    assert {r.sampling.n for r in critic.requests} == {3}
    assert len({r.sampling.seed for r in critic.requests}) == 6


def test_equal_responses_never_meet_and_equal_pairs_are_asked_once() -> None:
    critic = Recorder()
    labeller = Labeller(critic, LabelSettings(template="compact"))
    labeller([prompt("a", "a", "b"), prompt("b", "a"), prompt("a", "b", shade=1), prompt("c", "c")])
    assert critic.pairs() == [("a", "b"), ("b", "a")] * 2, "another image is another pair"
    tally = labeller.tally.as_dict()
    assert tally["pairs"] == {"duplicate": 1, "inconsistent": 2}
    assert tally["prompts"] == {"read": 4, "used": 3, "too-few-responses": 1}
    assert tally["responses"] == {"given": 9, "repeated": 2}
    assert [lost.reason for lost in labeller.lost] == ["too-few-responses"]


def test_more_pairs_than_wanted_are_drawn_by_seed_and_counted() -> None:
    def asked(seed: int) -> set[frozenset[str]]:
        critic = Recorder()
        labeller = Labeller(critic, LabelSettings(template="compact", max_pairs=4, seed=seed))
        labeller([prompt(*"abcdef")])
        assert labeller.tally.pairs["not_drawn"] == 15 - 4
        assert labeller.tally.pairs["inconsistent"] == 4
        return {frozenset(pair) for pair in critic.pairs()}

    assert len(asked(0)) == 4
    assert asked(0) == asked(0)
    assert len({frozenset(asked(seed)) for seed in range(5)}) > 1


# What is read


def test_rows_from_jsonl_parquet_and_prepare(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "1.jsonl").write_text(
        json.dumps({"image": "a.png", "question": "<image>Q?", "response_1": "x", "response_2": "y", "id": 7}) + "\n"
    )
    table = pa.table({"image": [{"bytes": png(2), "path": "p"}], "question": ["R?"]})
    pq.write_table(table, tmp_path / "2.parquet")
    image = Image(png(3))
    pair = PreferencePair("s", (image,), "S?", ("one", "two"), 0)
    write_parquet([PreferenceTask(pair, 1), PolicyTask("s", (image,), "T?", "3")], tmp_path / "own")
    files = [str(tmp_path / "1.jsonl"), str(tmp_path / "2.parquet"), str(tmp_path / "own" / "train-00000.parquet")]
    found = [item for item in read_prompts(files) if isinstance(item, LabelPrompt)]
    assert [(p.row, p.question, p.responses) for p in found] == [
        (0, "Q?", ("x", "y")),
        (0, "R?", ()),
        (0, "S?", ("two", "one")),
        (1, "T?", ()),
    ]
    assert found[0].name == "7"
    assert [bytes(p.images[0].data or b"") for p in found] == [png(1), png(2), png(3), png(3)]


GOOD = {"image": "a.png", "question": "Q?", "responses": ["x", "y"]}


@pytest.mark.parametrize(
    ("row", "reason", "said"),
    [
        ('{"image": ', "bad-json", "not valid JSON"),
        ('["x"]', "wrong-type", "Write one object a row"),
        ({**GOOD, "question": None}, "missing-field", "Give the row a 'question'"),
        ({**GOOD, "question": " "}, "empty-text", "is empty"),
        ({**GOOD, "image": None}, "image-missing", "Give the row an 'image'"),
        ({**GOOD, "image": "gone.png"}, "image-missing", "--image-root"),
        ({**GOOD, "image": "../a.png"}, "image-outside", "leads out"),
        ({**GOOD, "image": "text.png"}, "image-unreadable", "drop the row"),
        ({**GOOD, "image": "cut.png"}, "image-truncated", "drop the row"),
        ({**GOOD, "responses": "x"}, "wrong-type", "not a list"),
        ({**GOOD, "responses": None}, "missing-field", "--samples 4"),
        ({**GOOD, "responses": ["x", 3]}, "wrong-type", "not text"),
        ({"image": "a.png", "question": "Q?", "response_1": "x"}, "missing-field", "both 'response_1' and"),
    ],
)
def test_a_bad_row_is_named_before_anything_is_paid(tmp_path: Path, row: object, reason: str, said: str) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "cut.png").write_bytes(png(1)[: len(png(1)) // 2])
    (tmp_path / "text.png").write_bytes(b"no image at all")
    good, bad = json.dumps(GOOD), row if isinstance(row, str) else json.dumps(row)
    file = tmp_path / "in.jsonl"
    file.write_text(f"{good}\n{bad}\n")
    with FakeServer(served()) as server:
        result = label(server.url, tmp_path / "out", file)
        assert server.bodies == []
    assert result.exit_code == 2
    output = " ".join(result.output.split())
    assert "in.jsonl row 1:" in output
    assert reason in output
    assert said in output
    assert "1 of 2 rows cannot be used" in output
    (listed,) = lines_of(tmp_path / "out" / "rejected.jsonl")
    assert (listed["row"], listed["reason"]) == (1, reason)


def test_rows_without_responses_need_samples(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "in.jsonl").write_text(json.dumps({"image": "a.png", "question": "Q?"}) + "\n")
    result = label("http://127.0.0.1:9/v1", tmp_path / "out", tmp_path / "in.jsonl")
    assert result.exit_code == 2
    assert "in.jsonl row 0: the row has no responses" in result.output
    assert "--samples 4" in result.output


# What is written


def test_from_prompts_to_both_forms(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with FakeServer(served()) as server:
        result = label(server.url, out, data)
        assert result.exit_code == 0, result.output
        assert len(server.bodies) == 6 * 3 * 2
        assert label(server.url, out, data).exit_code == 0
        assert len(server.bodies) == 6 * 3 * 2, "the second run costs nothing"
    report = json.loads((out / "label.json").read_text())
    assert report["counts"]["prompts"] == {"read": 6, "used": 6, "rejected": 0}
    assert report["counts"]["pairs"] == {"labelled": 18}
    assert report["rows"] == {"tasks": {"train": 18}, "dpo": {"train": 18}}
    assert report["swap_consistency"] == 1

    rows = pq.read_table(out / "tasks" / "train-00000.parquet").to_pylist()
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

    dpo = lines_of(out / "dpo" / "train.jsonl")
    table = pq.read_table(out / "dpo" / "train.parquet").to_pylist()
    assert [{k: v for k, v in row.items() if k != "images"} for row in table] == [
        {k: v for k, v in row.items() if k != "images"} for row in dpo
    ]
    for row, line in zip(table, dpo, strict=True):
        assert row["prompt"] == [{"role": "user", "content": "How many?"}]
        assert int(row["chosen"][0]["content"]) > int(row["rejected"][0]["content"])
        assert (out / "dpo" / line["images"][0]).read_bytes() == row["images"][0]["bytes"]
        assert line["images"][0].endswith(".png")


def test_the_tasks_pass_validate(data: Path, tmp_path: Path) -> None:
    with FakeServer(served()) as server:
        assert label(server.url, tmp_path / "out", data, "--orders", "both").exit_code == 0
    report = check_parquet(tmp_path / "out" / "tasks")
    assert (report.ok, report.rows) == (True, 36)


def test_datasets_opens_the_images(data: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    with FakeServer(served()) as server:
        assert label(server.url, tmp_path / "out", data).exit_code == 0
    file = str(tmp_path / "out" / "dpo" / "train.parquet")
    row = datasets.Dataset.from_parquet(file, cache_dir=str(tmp_path / "cache"))[0]
    assert row["images"][0].size == (8, 8)


def test_a_critic_with_a_habit_labels_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with FakeServer(served()) as server:
        assert label(server.url, out, data).exit_code == 0
    with FakeServer(served(lambda a, b: 1)) as server:
        result = label(server.url, out, data, "--seed", 1, "--verdicts", "lenient", "--max-tokens", 99)
    assert result.exit_code == 1
    assert "no pair was labelled" in result.output
    report = json.loads((out / "label.json").read_text())
    assert report["counts"]["pairs"] == {"inconsistent": 18}
    assert report["swap_consistency"] == 0
    assert len(lines_of(out / "judged.jsonl")) == 18
    # What the first run wrote would pass for the second's.
    assert list((out / "tasks").glob("*")) == list((out / "dpo").glob("train.*")) == []


def test_every_pair_stands_in_the_log_whatever_became_of_it(data: Path, tmp_path: Path) -> None:
    """5 beats the others; between 1 and 3 the first place decides."""
    out = tmp_path / "out"
    with FakeServer(served(lambda a, b: larger(a, b) if 5 in (a, b) else 1)) as server:
        assert label(server.url, out, data).exit_code == 0
    report = json.loads((out / "label.json").read_text())
    assert report["counts"]["pairs"] == {"inconsistent": 6, "labelled": 12}
    assert report["swap_consistency"] == pytest.approx(2 / 3)
    log = lines_of(out / "judged.jsonl")
    assert len(log) == 18
    lost = [line for line in log if line["outcome"] == "inconsistent"]
    assert {(line["response_1"], line["response_2"]) for line in lost} == {("1", "3")}
    assert all(line["votes"] == [["1"], ["2"]] and line["confidence"] is None for line in lost)


def test_votes_and_least_confidence(data: Path, tmp_path: Path) -> None:
    """Three of four votes in each order: confidence 0.75 is enough for 0.75 and not for 0.8."""

    def behaviour(attempt: int, body: dict[str, Any]) -> Any:
        made = served()(attempt, body)
        right = made["choices"][0]["message"]["content"]
        made["choices"][3]["message"]["content"] = box(1) if right == box(2) else box(2)
        return made

    out = tmp_path / "out"
    with FakeServer(behaviour) as server:
        options = ("--votes", 4, "--temperature", 1.0)
        assert label(server.url, out, data, *options).exit_code == 0
        assert {row["confidence"] for row in lines_of(out / "dpo" / "train.jsonl")} == {0.75}
        paid = len(server.bodies)
        assert label(server.url, out, data, *options, "--min-confidence", 0.8).exit_code == 1
        assert len(server.bodies) == paid, "another threshold is free"
    assert json.loads((out / "label.json").read_text())["counts"]["pairs"] == {"low_confidence": 18}


def test_responses_are_drawn_and_kept(data: Path, tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "responses"} for row in lines_of(data)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    # Of four samples two are the same.
    with FakeServer(served(samples=lambda i: min(i, 2))) as server:
        options = ("--samples", 4, "--policy-model", "pupil")
        assert label(server.url, out, data, *options).exit_code == 0
        assert sum(body["model"] == "pupil" for body in server.bodies) == 6
        assert {body["n"] for body in server.bodies if body["model"] == "pupil"} == {4}
        paid = len(server.bodies)
        assert label(server.url, out, data, *options).exit_code == 0
        assert len(server.bodies) == paid == 6 + 6 * 3 * 2
    report = json.loads((out / "label.json").read_text())
    assert report["counts"]["responses"] == {"drawn": 24, "repeated": 6}
    assert report["counts"]["pairs"] == {"labelled": 18}
    assert report["policy"] == "pupil"


def test_responses_given_most_often_are_compared_first() -> None:
    """Of four answers three were given more than once: of six pairs these three are kept."""
    critic = Recorder()
    labeller = Labeller(critic, LabelSettings(template="compact", max_pairs=3))
    labeller([prompt(*"9375375")])
    assert {frozenset(pair) for pair in critic.pairs()} == {frozenset("37"), frozenset("35"), frozenset("57")}
    assert labeller.tally.pairs["not_drawn"] == 3


def test_every_row_can_be_drawn_anew_and_answers_compared(data: Path, tmp_path: Path) -> None:
    """The critic sees the final answers; what is learned for DPO is the text that the policy wrote."""
    out = tmp_path / "out"
    # Two samples with one answer, one without an answer.
    drawn = (f"One. {box(4)}", f"Two. {box(4)}", f"Three. {box(9)}", "Four?")
    with FakeServer(served(samples=lambda i: drawn[i])) as server:
        result = label(server.url, out, data, "--samples", 4, "--redraw", "--shown", "answer", "--orders", "as_is")
        assert result.exit_code == 0, result.output
    report = json.loads((out / "label.json").read_text())
    assert report["counts"]["responses"] == {"drawn": 24, "empty": 6, "repeated": 6}
    assert report["shown"] == "answer"
    rows = pq.read_table(next((out / "tasks").glob("*.parquet"))).to_pylist()
    assert {(row["extra_info"]["response_1"], row["extra_info"]["response_2"]) for row in rows} == {("4", "9")}
    for line in lines_of(out / "dpo" / "train.jsonl"):
        assert line["chosen"][0]["content"] == drawn[2]
        assert line["rejected"][0]["content"] == drawn[0]


def test_what_failed_is_asked_again_and_only_that(data: Path, tmp_path: Path) -> None:
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    with FakeServer(served(lambda a, b: "400" if (a, b) == (5, 3) else larger(a, b))) as server:
        result = label(server.url, out, data)
    assert result.exit_code == 1
    assert "pairs or prompts failed: run the same command again" in " ".join(result.output.split())
    assert json.loads((out / "label.json").read_text())["counts"]["pairs"] == {"labelled": 12, "request_failed": 6}
    with FakeServer(served()) as server:
        assert label(server.url, out, data).exit_code == 0
        assert len(server.bodies) == 6
        assert label(server.url, undisturbed, data).exit_code == 0
    for name in ("judged.jsonl", "dpo/train.jsonl", "tasks/train-00000.parquet"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name


def test_a_killed_run_goes_on_where_it_was(data: Path, tmp_path: Path) -> None:
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
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
        words = ["label", data, "--model", "critic", "--base-url", server.url, "--out", out, "--template", "compact"]
        code = "from tests.labeling.test_labeler import APP; APP()"
        process = subprocess.Popen([sys.executable, "-c", code, *map(str, words)], cwd=Path(__file__).parents[2])
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
        assert label(server.url, out, data).exit_code == 0
        assert len(server.answered) == 36
        assert set(server.answered.values()) == {1}, "no request is paid twice"
    with FakeServer(served()) as server:
        assert label(server.url, undisturbed, data).exit_code == 0
    for name in ("judged.jsonl", "dpo/train.jsonl", "tasks/train-00000.parquet"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert [p.name for p in (out / "tasks").glob(".*")] == []


def test_sampling_that_failed_is_counted(data: Path, tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "responses"} for row in lines_of(data)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def behaviour(attempt: int, body: dict[str, Any]) -> Any:
        asked = json.dumps(body)
        first = json.dumps(body["messages"][0]["content"][0])
        return "400" if body["n"] == 2 and first == broken and "Response 1" not in asked else served()(attempt, body)

    broken = ""
    out = tmp_path / "out"
    with FakeServer(behaviour) as server:
        assert label(server.url, out, data, "--samples", 2).exit_code == 0
        broken = json.dumps(server.bodies[0]["messages"][0]["content"][0])
        again = tmp_path / "again"
        assert label(server.url, again, data, "--samples", 2).exit_code == 1
    counts = json.loads((again / "label.json").read_text())["counts"]
    assert counts["prompts"] == {"read": 6, "used": 5, "sampling-failed": 1, "rejected": 0}
    assert [line["reason"] for line in lines_of(again / "rejected.jsonl")] == ["sampling-failed"]


def test_bad_rows_can_be_skipped_and_are_counted(data: Path, tmp_path: Path) -> None:
    with data.open("a") as stream:
        stream.write('{"question": "Q?"}\n')
    out = tmp_path / "out"
    with FakeServer(served()) as server:
        assert label(server.url, out, data, "--skip-bad-rows").exit_code == 0
    counts = json.loads((out / "label.json").read_text())["counts"]
    assert counts["prompts"] == {"read": 7, "used": 6, "rejected": 1}
    assert [(line["row"], line["reason"]) for line in lines_of(out / "rejected.jsonl")] == [(6, "image-missing")]


def test_a_share_goes_to_val_by_image(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with FakeServer(served()) as server:
        assert label(server.url, out, data, "--val-share", 0.5).exit_code == 0
    rows = json.loads((out / "label.json").read_text())["rows"]
    assert rows["tasks"] == rows["dpo"]
    assert set(rows["dpo"]) == {"train", "val"}
    images = {name: {line["images"][0] for line in lines_of(out / "dpo" / f"{name}.jsonl")} for name in rows["dpo"]}
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
def test_impossible_wishes_are_refused(data: Path, tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    result = label("http://127.0.0.1:9/v1", tmp_path / "out", data, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_lost_rows_say_where_what_and_the_remedy() -> None:
    lost = LostRow("f.jsonl", 3, "missing-field", "no question", "Give one.")
    assert str(lost) == "f.jsonl row 3: no question (missing-field). Give one."


# Mined by known answers


def vqa(folder: Path, *rows: dict[str, Any]) -> Path:
    """Questions with answers, each with an image of its own unless it names one."""
    folder.mkdir()
    for i in range(len(rows)):
        (folder / f"{i}.png").write_bytes(png(i))
    lines = [
        json.dumps({"image": f"{i}.png", "question": "How many?", "answer": "5"} | row) for i, row in enumerate(rows)
    ]
    (folder / "vqa.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "vqa.jsonl"


def test_right_is_paired_with_wrong_and_no_critic_is_asked(tmp_path: Path) -> None:
    """Of eight samples five are wrong in two ways, two are right, and one has no box."""
    drawn = [box(7), box(5), box(9), box(7), box("5 wibbles"), box("9."), box(7), "No idea."]
    data, out = vqa(tmp_path / "vqa", {}, {}), tmp_path / "out"
    command = (data, "--truth", "--samples", 8, "--orders", "both", "--policy-model", "pupil")
    with FakeServer(served(samples=lambda i: drawn[i])) as server:
        result = label(server.url, out, *command)
        assert result.exit_code == 0, result.output
        assert [body["model"] for body in server.bodies] == ["pupil", "pupil"]
        text = server.bodies[0]["messages"][0]["content"][1]["text"]
        assert text.startswith("How many?\n\n")
        assert text.endswith("inside \\boxed{}.")
        assert label(server.url, out, *command).exit_code == 0
        assert len(server.bodies) == 2, "the second run costs nothing"
    report = json.loads((out / "label.json").read_text())
    assert report["counts"] == {
        "prompts": {"read": 2, "used": 2, "rejected": 0},
        "responses": {"drawn": 16, "no_answer": 2, "right": 2, "undecided": 2, "wrong": 10},
        "pairs": {"labelled": 4},
        "judgements": {},
    }
    assert (report["labels"], report["swap_consistency"]) == ("answers", None)
    assert "critic" not in report
    log = lines_of(out / "judged.jsonl")
    assert [(row["response_1"], row["response_2"].replace("9.", "9"), row["chosen"]) for row in log[:2]] == [
        (box(5), box(7), 1),
        (box(5), box(9), 1),
    ], "the most frequent wrong answer first"
    assert [(row["answer"], row["times"]) for row in log[:2]] == [("5", 3), ("5", 2)]
    assert (check_parquet(out / "tasks").ok, report["rows"]) == (True, {"tasks": {"train": 8}, "dpo": {"train": 4}})
    meta = [
        json.loads(row["extra_info"]["meta"])
        for row in pq.read_table(next((out / "tasks").glob("*.parquet"))).to_pylist()
    ]
    assert [(one["answer"], one["times"]) for one in meta[:4]] == [("5", 3), ("5", 3), ("5", 2), ("5", 2)]


@pytest.mark.parametrize(
    ("drawn", "shown", "pairs", "counts"),
    [
        ([box(5), box(5)], "response", [], {"no-wrong-response": 1}),
        ([box(7), box(8)], "response", [], {"no-right-response": 1}),
        # With answers only, the known one takes the place of a right response; it is no text for DPO.
        ([box(7), box(8)], "answer", [("5", "7"), ("5", "8")], {"used": 1}),
        ([box(7), box("5.0")], "answer", [("5.0", "7")], {"used": 1}),
        ([f"One. {box(7)}", f"Two. {box(7)}"], "answer", [("5", "7")], {"used": 1}),
        (["7", "5"], "answer", [], {"no-wrong-response": 1}),
        (["", box(5)], "answer", [], {"no-wrong-response": 1}),
    ],
)
def test_what_is_paired(
    drawn: list[str], shown: str, pairs: list[tuple[str, str]], counts: dict[str, int], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with FakeServer(served(samples=lambda i: drawn[i])) as server:
        result = label(server.url, out, vqa(tmp_path / "vqa", {}), "--truth", "--samples", 2, "--shown", shown)
    assert result.exit_code == (0 if pairs else 1), result.output
    found = [(row["response_1"], row["response_2"]) for row in lines_of(out / "judged.jsonl")]
    assert sorted(found) == pairs
    report = json.loads((out / "label.json").read_text())
    assert report["counts"]["prompts"] == {"read": 1, "rejected": 0} | counts
    sampled = [pair for pair in pairs if pair[0] != "5"]
    assert report["rows"]["dpo"] == ({"train": len(sampled)} if sampled else {})
    for line in lines_of(out / "dpo" / "train.jsonl") if sampled else []:
        assert line["chosen"][0]["content"] == box("5.0"), "what the policy wrote"


def test_a_response_that_was_cut_off_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    def behaviour(attempt: int, body: dict[str, Any]) -> Any:
        made = served(samples=lambda i: [box(5), box(7), box(9)][i])(attempt, body)
        made["choices"][1]["finish_reason"] = "length"
        return made

    with FakeServer(behaviour) as server:
        assert label(server.url, tmp_path / "out", vqa(tmp_path / "vqa", {}), "--truth", "--samples", 3).exit_code == 0
    counts = json.loads((tmp_path / "out" / "label.json").read_text())["counts"]
    assert counts["responses"] == {"cut_off": 1, "drawn": 3, "empty": 1, "right": 1, "wrong": 1}


def test_responses_that_a_row_has_are_checked_and_fewer_pairs_taken(tmp_path: Path) -> None:
    given = [box(n) for n in (1, 2, 2, 5, 3, 3, 3)]
    data = vqa(tmp_path / "vqa", {"responses": given})
    assert label("http://127.0.0.1:9/v1", tmp_path / "out", data, "--truth", "--max-pairs", 2).exit_code == 0
    counts = json.loads((tmp_path / "out" / "label.json").read_text())["counts"]
    assert counts["pairs"] == {"labelled": 2, "not_drawn": 1}
    assert [row["response_2"] for row in lines_of(tmp_path / "out" / "judged.jsonl")] == [box(3), box(2)]


def test_our_policy_rows_are_asked_as_they_are(tmp_path: Path) -> None:
    write_parquet([PolicyTask("s", (Image(png(3)),), "How many?", "5")], tmp_path / "own")
    with FakeServer(served(samples=lambda i: box(5 + i))) as server:
        result = label(server.url, tmp_path / "out", tmp_path / "own", "--truth", "--samples", 2)
        assert result.exit_code == 0, result.output
        assert server.bodies[0]["messages"][0]["content"][1]["text"] == "How many?"


def test_a_row_in_verls_form_brings_its_prompt_and_answer(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Box it."}, {"role": "user", "content": "<image>How many?"}]
    row = {"data_source": "other/geometry", "prompt": turns, "reward_model": {"ground_truth": "5"}, "question": None}
    with FakeServer(served(samples=lambda i: box(5 + i))) as server:
        data = vqa(tmp_path / "vqa", row | {"answer": None})
        assert label(server.url, tmp_path / "out", data, "--truth", "--samples", 2).exit_code == 0
        assert [message["role"] for message in server.bodies[0]["messages"]] == ["system", "user"]
    (line,) = lines_of(tmp_path / "out" / "judged.jsonl")
    assert line["question"] == "How many?"


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
def test_a_bad_answer_is_named_before_anything_is_paid(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    data, out = vqa(tmp_path / "vqa", {}, row, {}), tmp_path / "out"
    with FakeServer(served(samples=lambda i: box(5 + i))) as server:
        assert label(server.url, out, data, "--truth", "--samples", 2).exit_code == 2
        assert server.bodies == []
        assert [(line["row"], line["reason"]) for line in lines_of(out / "rejected.jsonl")] == [(1, reason)]
        assert label(server.url, out, data, "--truth", "--samples", 2, "--skip-bad-rows").exit_code == 0
    counts = json.loads((out / "label.json").read_text())["counts"]
    assert counts["prompts"] == {"read": 3, "rejected": 1, "used": 2}


def test_a_killed_mining_run_resumes(tmp_path: Path) -> None:
    """One question is answered, the other refused; the same command asks for the other only."""
    data, out = vqa(tmp_path / "vqa", {}, {}), tmp_path / "out"
    first: list[str] = []

    def half(attempt: int, body: dict[str, Any]) -> Any:
        first.append(json.dumps(body["messages"]))
        return (
            "400" if json.dumps(body["messages"]) != first[0] else served(samples=lambda i: box(5 + i))(attempt, body)
        )

    with FakeServer(half) as server:
        assert label(server.url, out, data, "--truth", "--samples", 2).exit_code == 1
    with FakeServer(served(samples=lambda i: box(5 + i))) as server:
        assert label(server.url, out, data, "--truth", "--samples", 2).exit_code == 0
        assert len(server.bodies) == 1
    assert json.loads((out / "label.json").read_text())["counts"]["pairs"] == {"labelled": 2}
