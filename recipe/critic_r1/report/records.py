"""The lines and files that a report is made from, as records.

A missing value is a fact to print, so almost every field has a default. What cannot be used, a line or a whole result
file, is left out, counted and named on the page: one damaged line must not cost the run its report. Numbers are bounded
and names are cut, because a file may come from anyone.
"""

import json
import math
from collections import deque
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from data_prep.files import json_lines
from recipe.critic_r1.judging.pairwise import images_blake3

LARGEST_RESULT_FILE = 64 << 20
"""Bytes of a JSON file of results; ours have some kilobytes."""

DEEPEST_RESULT_FILE = 50
"""Levels of lists and objects in such a file."""

LONGEST_NAME = 300
"""Characters of a name, a category or a setting on the page."""

_LARGEST_NUMBER = 1e30


class ReportError(ValueError):
    """The report cannot be made; the message names the file and the remedy."""


def shortened_name(text: str) -> str:
    """A name of at most `LONGEST_NAME` characters."""
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


def _as_text(value: Any) -> Any:
    return "" if value is None else str(value) if isinstance(value, int | float) else value


def _plottable(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and abs(value) < _LARGEST_NUMBER else None


Text = Annotated[str, BeforeValidator(_as_text)]
"""A string; null reads as empty and a bare number as its digits (`order` and `pred` are written either way)."""

Name = Annotated[Text, AfterValidator(shortened_name)]

Number = Annotated[float | None, AfterValidator(_plottable)]
"""A number; NaN, infinity and what no chart can hold read as none."""

Count = Annotated[int, Field(ge=0, le=10**15)]


class Record(BaseModel):
    model_config = ConfigDict(extra="allow")


class StageRecord(Record):
    """One stage of a training run."""

    name: Name
    seconds: Number = None
    status: Name = ""


class RunInfo(Record):
    """`run.json`."""

    name: Name
    seed: int | None = None
    created: Name = ""
    settings: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    stages: list[StageRecord] = []
    control: dict[str, Any] | None = None


class Step(Record):
    """The metrics of one training step."""

    step: Count
    data: dict[str, Any]


class MetricValue(Record):
    """A metric with its 95 % interval and the number of items behind it."""

    value: Number
    low: Number = None
    high: Number = None
    n: Count | None = None


class CurvePoint(MetricValue):
    """A point over N; the costs are means per question, None where a server counted no tokens."""

    n_candidates: Annotated[int, Field(ge=1, le=1 << 20)]
    judgements: Number = None
    tokens: Number = None
    tokens_per_point: Number = None


class ResultFile(Record):
    """`eval/*.json`, `judge.json` or `best_of_n.json`: metrics, with everything else in it as extras."""

    metrics: dict[str, MetricValue] = {}
    curves: dict[str, list[CurvePoint]] = {}
    """`pool/selector` -> points over N; the pool is `best_of_8` or the like, or is left out where there is one"""
    bills: dict[str, dict[str, Number]] = {}
    """pool -> what its judgements cost"""
    bill: dict[str, Number] | None = None
    """The same where there is one pool"""


class PolicyResultFile(Record):
    """`eval_policy.json`: metrics as third-party tools measured them, `policy/<group>/<task>`."""

    metrics: dict[str, MetricValue] = Field(validation_alias=AliasChoices("metrics", "figures"))
    settings: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    """task -> why it has no metric"""


class JudgementLine(Record):
    """One judgement; `response` is everything that the model wrote, its thoughts included."""

    pair_id: Name
    order: Name = ""
    image_blake3: Name = ""
    """Hash of the image; of all its hashes where the pair has several (`judging.pairwise.images_blake3`)"""
    category: Name = ""
    question: Text = ""
    response_1: Text = ""
    response_2: Text = ""
    response: Text = ""
    pred: Name = ""
    ground_truth: Name = ""
    correct: bool | None = None
    reason: Name = ""
    well_formed: Number = None
    error: Name = ""
    """Why the request was not answered; empty when it was"""


class MatchLine(Record):
    """One match of a response that a critic compared, as `reward_fns.critic_groups` tells it."""

    against: int = -1
    share: Number = None
    verdicts: Annotated[list[str | None], Field(max_length=2)] = []


class RolloutLine(Record):
    """One rollout of training, as `run_log` writes it."""

    step: Count
    uid: Name = ""
    sample: Count = 0
    matches: list[MatchLine] | None = None
    """None where no critic compared it"""
    pair_id: Name = ""
    order: Name = ""
    data_source: Name = ""
    image: list[str] | None = None
    prompt: Text = ""
    response: Text = ""
    pred: Name = ""
    ground_truth: Name = ""
    acc: Number = None
    reason: Name = ""

    def as_judgement(self) -> JudgementLine:
        """The same as a judgement: the prompt holds the question and the two responses."""
        return JudgementLine(
            **self.model_dump(include={"pair_id", "order", "response", "pred", "ground_truth", "reason"}),
            image_blake3=images_blake3(self.image or []) if self.image else "",
            category=f"{self.data_source}, step {self.step}",
            question=self.prompt,
            correct=None if self.acc is None else self.acc > 0.5,
        )


R = TypeVar("R", bound=Record)


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"]) or "the whole record"
    return f"{shortened_name(where)}: {fault['msg']}"


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST_RESULT_FILE):
        inside = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [part for parts in inside for part in parts]
    return bool(level)


def read_json(path: Path, label: str, record: type[R], notes: list[str]) -> R | None:
    """Read a file of results; None, with a note that names the fault, when it cannot be used."""
    try:
        if path.stat().st_size > LARGEST_RESULT_FILE:
            raise ValueError(f"larger than {LARGEST_RESULT_FILE:,} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
        if _is_deep(value):
            raise ValueError(f"nested more than {DEEPEST_RESULT_FILE} levels deep")
        return record.model_validate(value)
    except json.JSONDecodeError as error:
        why = f"line {error.lineno} is not JSON ({error.msg})"
    except UnicodeDecodeError as error:
        why = f"not UTF-8 text (byte {error.start})"
    except ValidationError as error:
        why = _first_fault(error)
    except (ValueError, RecursionError) as error:
        why = str(error)
    notes.append(f"{label} cannot be used: {why}. Run that stage again.")
    return None


def read_lines(path: Path, label: str, record: type[R], notes: list[str], *, last: int | None = None) -> list[R]:
    """Read one record a line, of the `last` lines only where given.

    Lines that cannot be used are left out; a note counts them and names the first.
    """
    found, damaged = [], []
    for line in json_lines(path) if last is None else deque(json_lines(path), maxlen=last):
        if line.error is not None:
            damaged.append((line.number, f"not JSON ({line.error})"))
            continue
        try:
            found.append(record.model_validate(line.value))
        except ValidationError as error:
            damaged.append((line.number, _first_fault(error)))
    if damaged:
        number, why = damaged[0]
        lines = (
            "1 line cannot be used and is left out"
            if len(damaged) == 1
            else (f"{len(damaged):,} lines cannot be used and are left out; the first")
        )
        notes.append(f"{label}: {lines}, line {number}: {shortened_name(why)}.")
    return found
