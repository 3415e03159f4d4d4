"""The pairwise judge and its figures, with judges whose habits are known exactly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.tasks.pairwise import Image, PreferencePair, PreferenceTask
from data_prep.tasks.prompts import get_template
from data_prep.writer import ShardWriter
from recipe.critic_r1.judging.generation import (
    Generation,
    GenerationRequest,
    ImagePart,
    Sampling,
    TextPart,
    messages_from_row,
)
from recipe.critic_r1.judging.metrics import pairwise_metrics
from recipe.critic_r1.judging.pairwise import (
    REQUEST_FAILED,
    SPLIT_VOTES,
    JudgeTask,
    judge,
    read_rows,
    task_from_row,
    thinking,
)


def says(choice: object) -> str:
    return f"<think>Looked.</think>\\boxed{{{choice}}}"


def prompt_text(request: GenerationRequest) -> str:
    return "".join(p.text for m in request.messages for p in m.parts if isinstance(p, TextPart))


def takes(letter: str) -> Callable[[GenerationRequest], str]:
    """A judge that always finds the response with this letter, wherever it stands."""
    return lambda request: says(1 if f"Response 1: {letter}" in prompt_text(request) else 2)


@pytest.fixture
def tasks(task: Callable[..., JudgeTask]) -> list[JudgeTask]:
    """Ten pairs in both orders; the better response is A, and it stands first in order 0."""
    return [task(f"pair {i}", order) for i in range(10) for order in (0, 1)]


@pytest.mark.parametrize(
    ("rule", "accuracy", "first", "second", "both", "consistency", "bias"),
    [
        pytest.param(takes("A"), 1, 1, 1, 1, 1, 0, id="knows"),
        pytest.param(takes("B"), 0, 0, 0, 0, 1, 0, id="always wrong"),
        pytest.param(lambda r: says(1), 0.5, 1, 0, 0, 0, 1, id="always the first place"),
        pytest.param(lambda r: says(2), 0.5, 0, 1, 0, 0, -1, id="always the second place"),
        pytest.param(lambda r: says("tie"), 0, 0, 0, 0, 1, 0, id="always a tie"),
    ],
)
def test_habits(
    scripted: Any,
    tasks: list[JudgeTask],
    rule: Any,
    accuracy: float,
    first: float,
    second: float,
    both: float,
    consistency: float,
    bias: float,
) -> None:
    metrics = pairwise_metrics(judge(scripted(rule), tasks, Sampling()))
    found = {name: estimate.value for name, estimate in metrics.items()}
    assert found == {
        "accuracy": accuracy,
        "accuracy_better_first": first,
        "accuracy_better_second": second,
        "accuracy_readable": accuracy,
        "accuracy_both_orders": both,
        "swap_consistency": consistency,
        "position_bias": bias,
        "format_rate": 1,
        "parse_failures": 0,
        "request_failures": 0,
    }
    assert metrics["accuracy"].n == 20
    assert metrics["swap_consistency"].n == 10


def test_an_unreadable_verdict_is_a_parse_failure_with_its_reason(scripted: Any, tasks: list[JudgeTask]) -> None:
    """In half of the pairs the second order is unreadable, in two ways: no coin is tossed for it."""

    def rule(request: GenerationRequest) -> str:
        pair = int(request.images[0].data.split()[1])
        if pair < 5 and "Response 1: B" in prompt_text(request):
            return "no verdict" if pair < 3 else "<think>I never stop"
        return takes("A")(request)

    metrics = pairwise_metrics(judge(scripted(rule), tasks, Sampling()))
    assert metrics["accuracy"].value == 15 / 20
    assert metrics["accuracy_readable"].value == 1
    assert metrics["accuracy_readable"].n == 15
    assert metrics["parse_failures"].value == 5 / 20
    assert metrics["parse_failures/no_box"].value == 3 / 20
    assert metrics["parse_failures/unclosed_think"].value == 2 / 20
    assert metrics["accuracy_both_orders"].value == 5 / 10
    assert (metrics["swap_consistency"].value, metrics["swap_consistency"].n) == (1, 5)


def test_a_failed_request_counts_nowhere_but_as_failed(scripted: Any, tasks: list[JudgeTask]) -> None:
    def rule(request: GenerationRequest) -> str | Generation:
        if request.images[0].data == b"pair 3" and "Response 1: B" in prompt_text(request):
            return Generation((), error="503")
        return takes("A")(request)

    judgements = judge(scripted(rule), tasks, Sampling())
    failed = [j for j in judgements if not j.answered]
    assert [(j.reason, j.pred, j.correct) for j in failed] == [(REQUEST_FAILED, None, False)]
    metrics = pairwise_metrics(judgements)
    assert (metrics["accuracy"].value, metrics["accuracy"].n) == (1, 19)
    assert (metrics["accuracy_both_orders"].value, metrics["accuracy_both_orders"].n) == (1, 9)
    assert metrics["request_failures"].value == 1 / 20
    assert metrics["parse_failures"].value == 0


def test_a_pair_judged_twice_in_one_order_is_refused(scripted: Any, task: Any) -> None:
    judgements = judge(scripted(takes("A")), [task("p", 0), task("p", 0)], Sampling())
    with pytest.raises(ValueError, match="pair p was judged twice in order 0"):
        pairwise_metrics(judgements)
    with pytest.raises(ValueError, match="no judgements"):
        pairwise_metrics([])


def test_one_order_alone_gives_no_pair_figures(scripted: Any, task: Any) -> None:
    metrics = pairwise_metrics(judge(scripted(takes("A")), [task("p", 0), task("q", 0)], Sampling()))
    assert metrics["accuracy"].value == 1
    assert metrics["accuracy_better_second"].value is None
    assert "swap_consistency" not in metrics


@pytest.mark.parametrize(
    ("texts", "pred", "reason", "place"),
    [
        ([says(1), says(2), says(2)], "2", "ok", 1),
        ([says(1), "?", "?"], "1", "ok", 0),
        ([says(1), says(2)], None, SPLIT_VOTES, 0),
        (["?", "<think>"], None, "no_box", 0),
        ([says(1), says("tie"), says("tie"), says(1), says(1)], "1", "ok", 0),
    ],
)
def test_votes(scripted: Any, task: Any, texts: list[str], pred: str | None, reason: str, place: int) -> None:
    generator = scripted(lambda request: Generation(tuple(texts)))
    (judgement,) = judge(generator, [task("p", 0)], Sampling(temperature=1, n=len(texts)))
    assert (judgement.pred, judgement.reason) == (pred, reason)
    assert judgement.text == texts[place]
    assert len(judgement.votes) == len(texts)


def test_a_record_names_everything_a_reader_needs(scripted: Any, task: Any) -> None:
    (judgement,) = judge(scripted(takes("A")), [task("p", 1)], Sampling())
    assert judgement.record() == {
        "pair_id": "p",
        "order": 1,
        "category": "made",
        "image_blake3": "p",
        "question": "which?",
        "response_1": "B",
        "response_2": "A",
        "response": says(2),
        "thinking": "Looked.",
        "pred": "2",
        "ground_truth": "2",
        "correct": True,
        "reason": "ok",
        "well_formed": 1.0,
        "votes": ["2"],
        "error": None,
        "finish_reasons": [],
    }


@pytest.mark.parametrize(
    ("text", "thoughts"),
    [
        ("<think> a </think>b", "a"),
        ("<think>never closes", "never closes"),
        ("the template opened it</think>1", "the template opened it"),
        ("plain", ""),
    ],
)
def test_thinking(text: str, thoughts: str) -> None:
    assert thinking(text) == thoughts


def rows(preferred: Any = 0) -> list[dict[str, Any]]:
    pair = PreferencePair("made", (Image(b"\x89PNG 1"),), "What <image> is it?", ("cat", "dog"), preferred)
    return [PreferenceTask(pair, order, split="test", template=get_template("compact")).row() for order in (0, 1)]


def test_rows_of_the_writer_become_tasks(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "test.parquet") as writer:
        for row in rows():
            writer.write(row)
    read = read_rows([tmp_path / "test.parquet"])
    assert [place for place, _ in read] == [f"{tmp_path / 'test.parquet'} row {i}" for i in (0, 1)]
    first, second = (task_from_row(row) for _, row in read)
    assert first.pair_id == second.pair_id
    assert (first.order, first.response_1, first.ground_truth) == (0, "cat", "1")
    assert (second.order, second.response_1, second.ground_truth) == (1, "dog", "2")
    assert first.category == "made"
    image, text = first.messages[0].parts
    assert isinstance(image, ImagePart)
    assert image.data == b"\x89PNG 1"
    assert first.image_blake3 == image.blake3
    assert isinstance(text, TextPart)
    assert "Response 1: cat" in text.text


def test_broken_rows_are_named() -> None:
    label, image, marker = (rows()[0] for _ in range(3))
    label["reward_model"]["ground_truth"] = "3"
    image["images"] = [{"bytes": None, "path": "gone.png"}]
    marker["images"] = marker["images"] * 2
    for row, message in ((label, "not one of 1, 2, tie"), (image, "image 1 .* no bytes"), (marker, r"has 2 image")):
        with pytest.raises(ValueError, match=message):
            task_from_row(row)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="prepare"):
        read_rows([])
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read as Parquet"):
        read_rows([tmp_path / "a.parquet"])
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"lacks the columns .*data_source"):
        read_rows([tmp_path / "b.parquet"])


def test_request_keys_tell_apart_what_can_change_an_answer() -> None:
    def request(text: str = "a", image: bytes = b"1", **sampling: Any) -> GenerationRequest:
        row = [{"role": "user", "content": f"<image>{text}"}]
        return GenerationRequest(messages_from_row(row, [{"bytes": image}]), Sampling(**sampling))

    same, others = (
        request(),
        [
            request("b"),
            request(image=b"2"),
            request(temperature=1.0),
            request(max_tokens=7),
            request(seed=1),
            request(top_p=0.5),
            request(temperature=1.0, n=2),
        ],
    )
    assert same.key == request().key
    assert len({same.key, *(r.key for r in others)}) == len(others) + 1


def test_each_request_of_a_seeded_run_has_its_own_seed(scripted: Any, tasks: list[JudgeTask]) -> None:
    generator = scripted(takes("A"))
    judge(generator, tasks, Sampling(temperature=1.0, seed=3))
    judge(generator, tasks, Sampling(temperature=1.0, seed=3))
    first, again = ([request.sampling.seed for request in batch] for batch in generator.batches)
    assert first == again
    assert len(set(first)) == len(tasks)
    assert Sampling(seed=3).for_request("p") == Sampling(seed=3), "a greedy request stays the same request"


@pytest.mark.parametrize("settings", [{"temperature": -1}, {"top_p": 0}, {"max_tokens": 0}, {"n": 0}, {"n": 2}])
def test_impossible_sampling_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"impossible|greedy"):
        Sampling(**settings)
