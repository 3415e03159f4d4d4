"""Pairwise judging, of each pair in both orders.

A judge that always prefers the first position is right on half of the pairs. Only both orders separate skill from
position bias, so the data has each pair once per order, and metrics count pairs.

Three kinds of failure are kept apart: a wrong verdict, a response without a readable verdict (`pred` is None, with the
reason), and a failed request (`error`). No verdict is guessed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from blake3 import blake3

from recipe.critic_r1.judging.generation import (
    Generation,
    GenerationRequest,
    Generator,
    Message,
    Sampling,
    messages_from_row,
)
from reward_fns.verdict import THINK_CLOSE, THINK_OPEN, Parsing, Verdict, parse_verdict

Reader = Callable[..., Verdict]
"""Parses the verdict of a reply, with the keywords `prefilled` and `finished` of `parse_verdict`."""

REQUEST_FAILED = "request_failed"
"""Reason of a judgement whose request failed and will be retried by the next run."""

NO_ANSWER = {"failed": REQUEST_FAILED, "rejected": "request_rejected", "filtered": "filtered"}
"""`Generation.failure` -> reason of a judgement."""

REFUSED = "refused"
"""Reason of a judgement that the model refused to give."""

_FIELDS = ("pair_id", "order", "question", "response_1", "response_2")
"""Required fields of a critic row's `extra_info`."""

SPLIT_VOTES = "split_votes"
"""Reason of a judgement whose readable votes have no majority."""


@dataclass(frozen=True)
class JudgeTask:
    """A pair in one order, ready to be judged.

    pair_id: the same for both orders of a pair.
    order: 0 as the source lists the responses, 1 swapped.
    messages: the prompt.
    response_1, response_2: as shown.
    ground_truth: `"1"`, `"2"` or `"tie"`, as shown.
    image_blake3: hash of the images; empty for a pair without images.
    category: for reports: the source's `meta.category`, else the data source.
    group: pairs that a benchmark scores together, such as those of one prompt; by default the pair itself.
    """

    pair_id: str
    order: int
    messages: tuple[Message, ...] = field(repr=False)
    question: str
    response_1: str
    response_2: str
    ground_truth: str
    image_blake3: str
    category: str = ""
    group: str = ""

    @property
    def cluster(self) -> str:
        """Judgements of the same images, or of the same question without images, are not independent."""
        return self.image_blake3 or blake3(self.question.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Judgement:
    """A judge's verdict on a task.

    pred: `"1"`, `"2"`, `"tie"`, or None without a readable verdict.
    reason: the parser's (`ok`, `no_box`, ...), or REFUSED, SPLIT_VOTES, or one of NO_ANSWER.
    votes: the choice of each vote, None for an unreadable one.
    text: the response that the verdict comes from (the first that voted with the majority).
    error: why the request failed; None when it succeeded.
    finish_reasons: of each vote, see `Generation`.
    """

    task: JudgeTask
    pred: str | None
    reason: str
    well_formed: float
    votes: tuple[str | None, ...]
    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None
    finish_reasons: tuple[str, ...] = ()

    @property
    def answered(self) -> bool:
        """Whether the judge answered, readable or not."""
        return self.error is None

    @property
    def readable(self) -> bool:
        """Whether there is a verdict."""
        return self.pred is not None

    @property
    def correct(self) -> bool:
        """Whether the verdict equals the label; False for an unreadable one."""
        return self.pred is not None and self.pred == self.task.ground_truth

    def record(self) -> dict[str, Any]:
        """A line of `judgements.jsonl`."""
        task = self.task
        return {
            "pair_id": task.pair_id,
            "order": task.order,
            "category": task.category,
            "image_blake3": task.image_blake3,
            "question": task.question,
            "response_1": task.response_1,
            "response_2": task.response_2,
            "response": self.text,
            "thinking": thinking(self.text),
            "pred": self.pred,
            "ground_truth": task.ground_truth,
            "correct": self.correct,
            "reason": self.reason,
            "well_formed": self.well_formed,
            "votes": list(self.votes),
            "error": self.error,
            "finish_reasons": list(self.finish_reasons),
        }


def judge(
    generator: Generator,
    tasks: Sequence[JudgeTask],
    sampling: Sampling,
    *,
    parsing: Parsing = "strict",
    choices: Sequence[str] = ("1", "2", "tie"),
    prefilled: bool = False,
    read: Reader | None = None,
) -> list[Judgement]:
    """Judge all tasks in one batch; one judgement per task, in order.

    Args:
        sampling: `n` above 1 asks for that many votes; the verdict is the most frequent readable one. Each task gets a
            seed of its own.
        parsing, choices, prefilled: how verdicts are read, see `reward_fns.verdict.parse_verdict`.
        read: parser for replies to another prompt, instead of `parsing` and `choices`.
    """
    requests = [GenerationRequest(task.messages, sampling.for_request(task.pair_id, str(task.order))) for task in tasks]
    generations = generator.generate(requests)
    return [
        judgement_of(task, generation, parsing=parsing, choices=choices, prefilled=prefilled, read=read)
        for task, generation in zip(tasks, generations, strict=True)
    ]


def judgement_of(
    task: JudgeTask,
    generation: Generation,
    *,
    parsing: Parsing = "strict",
    choices: Sequence[str] = ("1", "2", "tie"),
    prefilled: bool = False,
    read: Reader | None = None,
) -> Judgement:
    """The judgement of a task from the model's answer. See `judge`."""
    if generation.error is not None:
        return Judgement(task, None, NO_ANSWER[generation.failure], 0.0, (), "", error=generation.error)
    read = read or partial(parse_verdict, parsing=parsing, choices=choices)
    verdicts = [
        read(text, prefilled=prefilled, finished=finished)
        for text, finished in zip(generation.texts, generation.finished, strict=True)
    ]
    pred, reason, place = count_votes(verdicts)
    if pred is None and generation.finish_reasons[place : place + 1] == ("refusal",):
        reason = REFUSED
    return Judgement(
        task=task,
        pred=pred,
        reason=reason,
        well_formed=sum(v.well_formed for v in verdicts) / len(verdicts),
        votes=tuple(v.choice for v in verdicts),
        text=generation.texts[place],
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=generation.completion_tokens,
        finish_reasons=generation.finish_reasons,
    )


def count_votes(verdicts: Sequence[Verdict]) -> tuple[str | None, str, int]:
    """Majority of the readable verdicts: the choice, its reason, and the index of the first verdict for it.

    Equal votes give no verdict (SPLIT_VOTES). Without a readable verdict the reason is the first one's.
    """
    ranking = Counter(v.choice for v in verdicts if v.choice is not None).most_common(2)
    if not ranking:
        return None, str(verdicts[0].reason), 0
    if len(ranking) == 2 and ranking[0][1] == ranking[1][1]:
        return None, SPLIT_VOTES, 0
    choice = ranking[0][0]
    place = next(i for i, v in enumerate(verdicts) if v.choice == choice)
    return choice, str(verdicts[place].reason), place


def thinking(text: str) -> str:
    """The text of the first think block, up to the end if it is not closed; empty without one."""
    _, opened, rest = text.partition(THINK_OPEN)
    if not opened:
        before, closed, _ = text.partition(THINK_CLOSE)
        return before.strip() if closed else ""
    return rest.partition(THINK_CLOSE)[0].strip()


def images_blake3(hashes: Sequence[str]) -> str:
    """A hash of a row's images that does not depend on their order; empty without images."""
    if len(hashes) < 2:
        return hashes[0] if hashes else ""
    return blake3("\n".join(sorted(hashes)).encode()).hexdigest()


def task_from_row(row: Mapping[str, Any]) -> JudgeTask:
    """A task from a critic row of the task Parquet (see `data_prep.tasks.pairwise`).

    Raises:
        ValueError: a field is missing or malformed, or images and markers do not match.
    """
    info, label = row["extra_info"] or {}, (row["reward_model"] or {}).get("ground_truth")
    if missing := [name for name in _FIELDS if info.get(name) is None]:
        raise ValueError(f"extra_info lacks {', '.join(missing)}: run `critic-r1 validate` on the file")
    if label not in ("1", "2", "tie"):
        raise ValueError(f"label {label!r} is not one of 1, 2, tie: run `critic-r1 validate` on the file")
    messages = messages_from_row(row["prompt"], row["images"] or ())
    hashes = [image.blake3 for message in messages for image in message.images]
    try:
        meta = json.loads(info.get("meta") or "{}")
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        raise ValueError("extra_info.meta is not a JSON object: run `critic-r1 validate` on the file")
    return JudgeTask(
        pair_id=str(info["pair_id"]),
        order=int(info["order"]),
        messages=messages,
        question=str(info["question"]),
        response_1=str(info["response_1"]),
        response_2=str(info["response_2"]),
        ground_truth=str(label),
        image_blake3=images_blake3(hashes),
        category=str(meta.get("category") or str(row["data_source"]).removeprefix("critic/")),
        group=str(info["pair_id"] if meta.get("group") is None else meta["group"]),
    )


def read_rows(paths: Iterable[Path]) -> list[tuple[str, dict[str, Any]]]:
    """All rows of task Parquet files, each with its name for errors, `FILE row N`.

    Raises:
        FileNotFoundError: there is no file. ValueError: a file is not Parquet or lacks a column.
    """
    rows = []
    files = sorted(paths)
    if not files:
        raise FileNotFoundError("no Parquet file to read: run `critic-r1 prepare` first, or check the folder")
    for path in files:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: run `critic-r1 prepare` first, or check the path")
        try:
            table = pq.read_table(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as Parquet ({error}): write it again") from error
        missing = {"data_source", "prompt", "images", "reward_model", "extra_info"} - set(table.column_names)
        if missing:
            raise ValueError(f"{path} lacks the columns {sorted(missing)}: it was not written by `critic-r1 prepare`")
        rows += [(f"{path} row {number}", row) for number, row in enumerate(table.to_pylist())]
    return rows
