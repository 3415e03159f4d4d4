"""Records for the lines and files that a report is made from.

Almost every field has a default, and missing values are shown as such. A damaged line or file is left out, counted and
named on the page. Files may come from anyone, so numbers are bounded and names are shortened.
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
"""Bytes of a JSON file of results; ours have a few kilobytes."""

DEEPEST_RESULT_FILE = 50
"""Levels of lists and objects in a JSON file of results."""

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
"""A string; null reads as empty and a number as its digits (`order` and `pred` are written either way)."""

Name = Annotated[Text, AfterValidator(shortened_name)]

Number = Annotated[float | None, AfterValidator(_plottable)]
"""A number; NaN, infinity and numbers too large for a chart read as None."""

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
    """A metric with its 95 % interval and its number of items."""

    value: Number
    low: Number = None
    high: Number = None
    n: Count | None = None


class CurvePoint(MetricValue):
    """A point over N; costs are means per question, None when the server reported no tokens."""

    n_candidates: Annotated[int, Field(ge=1, le=1 << 20)]
    judgements: Number = None
    tokens: Number = None
    tokens_per_point: Number = None


class ResultFile(Record):
    """`eval/*.json`, `judge.json` or `best_of_n.json`: metrics, and everything else as extras."""

    metrics: dict[str, MetricValue] = {}
    curves: dict[str, list[CurvePoint]] = {}
    """`pool/selector` -> points over N; the pool, such as `best_of_8`, is left out when there is only one"""
    bills: dict[str, dict[str, Number]] = {}
    """pool -> cost of its judgements"""
    bill: dict[str, Number] | None = None
    """The same for a single pool"""


class PolicyResultFile(Record):
    """`eval_policy.json`: metrics by third-party tools, `policy/<group>/<task>`."""

    metrics: dict[str, MetricValue] = Field(validation_alias=AliasChoices("metrics", "figures"))
    settings: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    """task -> why it has no metric"""


class JudgementLine(Record):
    """One judgement; `response` includes the thoughts."""

    pair_id: Name
    order: Name = ""
    image_blake3: Name = ""
    """Hash of the images (`judging.pairwise.images_blake3`)"""
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
    """Why the request failed; empty on success"""


class MatchLine(Record):
    """One match of a response that a critic compared, or its score, as written by `reward_fns.critic_groups`."""

    against: int = -1
    share: Number = None
    verdicts: Annotated[list[str | None], Field(max_length=2)] = []
    """Empty for a score."""
    score: Number = None
    """None when the score is unreadable, and for a match"""


class RolloutLine(Record):
    """One rollout of training, as written by `run_log`."""

    step: Count
    uid: Name = ""
    sample: Count = 0
    matches: list[MatchLine] | None = None
    """None when no critic compared it"""
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
        """The rollout as a judgement; its prompt contains question and responses."""
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
    """Read a file of results; None, with a note that says why, when it cannot be used."""
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
    """Read one record per line, optionally of the `last` lines only.

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
        several = f"{len(damaged):,} lines cannot be used and are left out; the first"
        lines = "1 line cannot be used and is left out" if len(damaged) == 1 else several
        notes.append(f"{label}: {lines}, line {number}: {shortened_name(why)}.")
    return found
