"""The files of a run directory, read into records.

Only `run.json` must be there: a report is most wanted when a run stopped half-way. A missing file is a fact to print,
so it becomes `None` or an empty list; a file that is there but malformed is an error that names file and line, because
a report that silently skips rows would show wrong numbers. One exception: a last line without its newline is what a
killed writer leaves behind, so it is left out and said on the page.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from recipe.critic_r1.judging.pairwise import pictures_sha256, thinking

RUN_JSON = "run.json"
METRICS = "train/metrics.jsonl"
SAMPLES = "train/samples.jsonl"
# Rollouts on the page: the last of the run. A long run has millions of them, and its last ones say what it became.
LAST_ROLLOUTS = 1000
ROLLOUTS = "rollouts"
# The order of columns in every table; evaluations with other names follow in alphabetical order.
STAGE_ORDER = ("before", "after")


class ReportError(ValueError):
    """A file of the run cannot be used; the message names the file, the line where known, and the remedy."""


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


class Estimate(Record):
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None


class CurvePoint(Estimate):
    n_candidates: int


class Evaluation(Record):
    metrics: dict[str, Estimate] = {}
    curves: dict[str, list[CurvePoint]] = {}
    """`pool/selector` -> points over N; the pool is `best_of_8` or the like"""
    bills: dict[str, dict[str, float]] = {}
    """pool -> what its judgements cost"""


class Judgement(Record):
    """One judgement: `response` is all that the model wrote, `thinking` the part inside its think block."""

    pair_id: Text
    order: Text = ""
    picture_sha256: Text = ""
    """Hash of the picture; of all its hashes where the pair has several (`judging.pairwise.pictures_sha256`)"""
    category: Text = ""
    question: Text = ""
    response_1: Text = ""
    response_2: Text = ""
    response: Text = ""
    thinking: Text = ""
    pred: Text = ""
    ground_truth: Text = ""
    correct: bool | None = None
    reason: Text = ""
    error: Text = ""
    """Why the request was not answered; empty when it was"""


class Sample(Record):
    """One rollout of training, as `run_log` writes it."""

    step: int
    pair_id: Text = ""
    order: Text = ""
    data_source: Text = ""
    picture: list[str] | None = None
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
            picture_sha256=pictures_sha256(self.picture or []) if self.picture else "",
            category=f"{self.data_source}, step {self.step}",
            question=self.prompt,
            response=self.response,
            thinking=thinking(self.response),
            pred=self.pred,
            ground_truth=self.ground_truth,
            correct=None if self.acc is None else self.acc > 0.5,
            reason=self.reason,
        )


@dataclass
class RunFiles:
    """Everything read from one run directory."""

    root: Path
    info: RunInfo
    steps: list[Step] = field(default_factory=list)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    judgements: dict[str, list[Judgement]] = field(default_factory=dict)
    rollouts: list[Judgement] = field(default_factory=list)
    """The last rollouts of training"""
    notes: list[str] = field(default_factory=list)
    """Plain sentences on what was left out, for the page."""


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


def _label(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _evaluation_files(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """(name -> result, name -> judgements): `NAME.json` and `NAME_judgements.jsonl`, or both in a folder `NAME`."""
    results = {path.parent.name: path for path in sorted(folder.glob("*/*.json"))}
    results |= {path.stem: path for path in sorted(folder.glob("*.json"))}
    judged = {path.parent.name: path for path in sorted(folder.glob("*/judgements.jsonl"))}
    suffix = "_judgements"
    judged |= {path.stem.removesuffix(suffix): path for path in sorted(folder.glob(f"*{suffix}.jsonl"))}
    return results, judged


def _ordered(names: set[str]) -> list[str]:
    known = [name for name in STAGE_ORDER if name in names]
    return known + sorted(names - set(known))


def read_run(run_dir: Path) -> RunFiles:
    """Reads a run directory. Raises ReportError when `run.json` is missing or any file that is there is malformed."""
    root = Path(run_dir)
    if not (root / RUN_JSON).is_file():
        raise ReportError(f"{root / RUN_JSON} is missing; give the folder of a run, the one that holds {RUN_JSON}")
    run = RunFiles(root=root, info=read_json(root / RUN_JSON, RUN_JSON, RunInfo))

    if (root / METRICS).is_file():
        # A resumed run writes the steps after its checkpoint again: the last line of a step is the one that counts.
        steps = {step.step: step for step in read_lines(root / METRICS, METRICS, Step, run.notes)}
        run.steps = [steps[number] for number in sorted(steps)]

    results, judged = _evaluation_files(root / "eval")
    for name in _ordered(set(results)):
        run.evaluations[name] = read_json(results[name], _label(root, results[name]), Evaluation)
    for name in _ordered(set(judged)):
        run.judgements[name] = list(read_lines(judged[name], _label(root, judged[name]), Judgement, run.notes))
    if (root / SAMPLES).is_file():
        samples = list(read_lines(root / SAMPLES, SAMPLES, Sample, run.notes, last=LAST_ROLLOUTS))
        run.rollouts = [sample.as_judgement() for sample in samples]
    return run
