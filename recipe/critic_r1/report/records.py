"""The lines and files that a report is made from, as records.

A missing value is a fact to print, so almost every field has a default; a field of the wrong kind is an error that
names file and line, because a report that silently skips rows would show wrong numbers. One exception: a last line
without its newline is what a killed writer leaves behind, so it is left out and said on the page.
"""

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from recipe.critic_r1.judging.pairwise import images_blake3


class ReportError(ValueError):
    """A file cannot be used; the message names the file, the line where known, and the remedy."""


def _as_text(value: Any) -> Any:
    return "" if value is None else str(value) if isinstance(value, int | float) else value


Text = Annotated[str, BeforeValidator(_as_text)]
"""A string; null reads as empty and a bare number as its digits (`order` and `pred` are written either way)."""


class Record(BaseModel):
    model_config = ConfigDict(extra="allow")


class Stage(Record):
    name: str
    seconds: float | None = None
    status: str = ""


class RunInfo(Record):
    name: str
    seed: int | None = None
    created: Text = ""
    settings: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    stages: list[Stage] = []
    control: dict[str, Any] | None = None


class Step(Record):
    step: int
    data: dict[str, Any]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


Number = Annotated[float | None, AfterValidator(_finite)]
"""A number; NaN, as Python writes it into JSON, is none."""


class Estimate(Record):
    value: Number
    low: Number = None
    high: Number = None
    n: int | None = None


class CurvePoint(Estimate):
    """A point over N; the costs are means per question, None where a server counted no tokens."""

    n_candidates: int
    judgements: float | None = None
    tokens: float | None = None
    tokens_per_point: float | None = None


class Evaluation(Record):
    """`eval/*.json`, `judge.json` or `best_of_n.json`: figures, and what else stands there as extras."""

    metrics: dict[str, Estimate] = {}
    curves: dict[str, list[CurvePoint]] = {}
    """`pool/selector` -> points over N; the pool is `best_of_8` or the like, or is left out where there is one"""
    bills: dict[str, dict[str, float | None]] = {}
    """pool -> what its judgements cost"""
    bill: dict[str, float | None] | None = None
    """The same where there is one pool"""


class PolicyEvaluation(Record):
    """`eval_policy.json`: figures as the field's own tools measured them, `policy/<group>/<task>`, and how."""

    metrics: dict[str, Estimate] = Field(validation_alias=AliasChoices("metrics", "figures"))
    settings: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    """task -> why it has no figure"""


class Judgement(Record):
    """One judgement: `response` is all that the model wrote, its thoughts included."""

    pair_id: Text
    order: Text = ""
    image_blake3: Text = ""
    """Hash of the image; of all its hashes where the pair has several (`judging.pairwise.images_blake3`)"""
    category: Text = ""
    question: Text = ""
    response_1: Text = ""
    response_2: Text = ""
    response: Text = ""
    pred: Text = ""
    ground_truth: Text = ""
    correct: bool | None = None
    reason: Text = ""
    well_formed: float | None = None
    error: Text = ""
    """Why the request was not answered; empty when it was"""


class Sample(Record):
    """One rollout of training, as `run_log` writes it."""

    step: int
    pair_id: Text = ""
    order: Text = ""
    data_source: Text = ""
    image: list[str] | None = None
    prompt: Text = ""
    response: Text = ""
    pred: Text = ""
    ground_truth: Text = ""
    acc: float | None = None
    reason: Text = ""

    def as_judgement(self) -> Judgement:
        """The same as a judgement: the prompt holds the question and the two responses."""
        return Judgement(
            pair_id=self.pair_id,
            order=self.order,
            image_blake3=images_blake3(self.image or []) if self.image else "",
            category=f"{self.data_source}, step {self.step}",
            question=self.prompt,
            response=self.response,
            pred=self.pred,
            ground_truth=self.ground_truth,
            correct=None if self.acc is None else self.acc > 0.5,
            reason=self.reason,
        )


R = TypeVar("R", bound=Record)


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"]) or "the whole record"
    return f"{where}: {fault['msg']}"


def read_json(path: Path, label: str, record: type[R]) -> R:
    """Reads one JSON object. Raises ReportError with file, and line where JSON itself is broken."""
    try:
        return record.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise ReportError(
            f"{label}, line {error.lineno}: not JSON ({error.msg}); run that stage again or remove the file"
        ) from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{label}: not UTF-8 text (byte {error.start}); remove the file or write it again") from error
    except ValidationError as error:
        raise ReportError(f"{label}: {_first_fault(error)}; run that stage again or remove the file") from error


def read_lines(path: Path, label: str, record: type[R], notes: list[str], *, last: int | None = None) -> Iterator[R]:
    """Yields one record a line, of the `last` lines only where given (the others are not even parsed).

    Raises ReportError with file and line; a torn last line goes to `notes` instead.
    """
    with path.open("rb") as file:
        numbered: Iterable[tuple[int, bytes]] = enumerate(file, start=1)
        for number, line in numbered if last is None else deque(numbered, maxlen=last):
            if not line.strip():
                continue
            try:
                yield record.model_validate(json.loads(line))
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                if not line.endswith(b"\n"):
                    notes.append(f"{label}: line {number} is cut off, as a killed run leaves it; left out.")
                    return
                raise ReportError(f"{label}, line {number}: not JSON ({error}); mend or remove that line") from error
            except ValidationError as error:
                raise ReportError(f"{label}, line {number}: {_first_fault(error)}; mend or remove that line") from error
