"""The questions that `critic-r1 label` and `best-of-n` read: third-party rows and our own, with their images checked.

A row that cannot be used comes back as a `LostRow`, with its place, the reason and a remedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from data_prep.reading.image_store import ImageStore
from data_prep.reading.images import BadImage, check_whole, read_header
from data_prep.reading.units import Broken, plan_units, read_unit
from data_prep.sources.generic import ALIASES
from data_prep.sources.record import MOST_RESPONSES, Reject, checked_text, question_text, read_images, sequence
from data_prep.tasks.pairwise import Image, content_id
from data_prep.tasks.prompts import MARKER, THINK_THEN_ANSWER, policy_prompt
from recipe.critic_r1.judging.generation import Message, messages_from_row


@dataclass(frozen=True)
class LostRow:
    """A row that gives no pair, and why. Counted from 0 within its file."""

    file: str
    row: int
    reason: str
    detail: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file} row {self.row}: {self.detail} ({self.reason}). {self.remedy}"


@dataclass(frozen=True)
class LabelPrompt:
    """A question about images, with the responses to compare.

    file, row: where it stands, as in `LostRow`.
    name: the source's own id; empty when it has none.
    images: with their bytes.
    responses: as they are compared; empty when they are to be sampled.
    written: response -> the text it was taken from, where that is another one.
    answer: the known answer to the question, where the row has one; a critic's labels do not come from it.
    turns: the policy's whole prompt (`role`, `content` with one marker per image), where the row holds it.
    """

    file: str
    row: int
    name: str
    images: tuple[Image, ...]
    question: str
    responses: tuple[str, ...] = ()
    written: Mapping[str, str] = field(default_factory=dict)
    answer: str | None = None
    turns: Sequence[Mapping[str, Any]] = ()

    @cached_property
    def content_id(self) -> str:
        """Equal images and question, equal id."""
        return content_id("prompt", *(image.blake3 for image in self.images), self.question)

    def messages(self, text: str) -> tuple[Message, ...]:
        """A user turn; `text` holds one marker per image."""
        return messages_from_row([{"role": "user", "content": text}], [{"bytes": image.data} for image in self.images])

    def asked(self, *, instruct: bool = False) -> tuple[Message, ...]:
        """What the policy is asked: the row's own prompt, else the question.

        Args:
            instruct: after the question, ask for thoughts and a box; a row's own prompt stays as it is.
        """
        if self.turns:
            return messages_from_row(self.turns, [{"bytes": image.data} for image in self.images])
        text = policy_prompt(self.question, len(self.images))
        return self.messages(f"{text}\n\n{THINK_THEN_ANSWER}" if instruct else text)

    def lost(self, reason: str, detail: str, remedy: str) -> LostRow:
        """This row as one that gives no pair."""
        return LostRow(self.file, self.row, reason, detail, remedy)


def read_prompts(files: Sequence[str], image_roots: Sequence[str] = ()) -> Iterator[LabelPrompt | LostRow]:
    """All rows of JSONL, JSON or Parquet files, with their images loaded and looked at.

    Fields: `question`, `image` (path, bytes, or a list of them), optionally `responses` or `response_1` and
    `response_2`, and `id`; the other names that `prepare generic` tries serve too, and so do rows that `prepare` wrote.
    """
    store = ImageStore(image_roots)
    start: dict[str, int] = {}
    for unit in plan_units(files):
        start.setdefault(unit.file, unit.first)
        base, _, _ = unit.file.rpartition("/")
        for ordinal, record in read_unit(unit):
            row = ordinal - start[unit.file]
            try:
                yield _prompt(record, unit.file, row, base or ".", store)
            except Reject as problem:
                yield LostRow(unit.file, row, problem.reason, str(problem), problem.remedy)
            except BadImage as problem:
                yield LostRow(unit.file, row, problem.reason, str(problem), "Fetch the image again, or drop the row.")


def _prompt(record: Any, file: str, row: int, base: str, store: ImageStore) -> LabelPrompt:
    if isinstance(record, Broken):
        raise Reject(record.reason, record.detail, record.remedy)
    if not isinstance(record, Mapping):
        raise Reject("wrong-type", f"the record is a {type(record).__name__}, not an object", "Write one object a row.")
    answer, turns = _known_answer(record), _turns(record)
    info = record.get("extra_info")
    # The prompt of a row of our own Parquet is written for a model; the bare question is in extra_info.
    record = {**record, **{k: v for k, v in info.items() if v}} if isinstance(info, Mapping) else record
    if turns and not record.get("question"):
        said = "\n".join(turn["content"] for turn in turns if turn["role"] == "user")
        record = {**record, "question": said}
    found = {
        name: next((record[alias] for alias in ALIASES[name] if record.get(alias) is not None), None)
        for name in ("question", "image", "responses", "response_1", "response_2", "id")
    }
    if found["question"] is None:
        have = ", ".join(sorted(map(str, record))[:20])
        raise Reject("missing-field", f"no question among {have}", "Give the row a 'question' and an 'image'.")
    if found["image"] is None:
        have = ", ".join(sorted(map(str, record))[:20])
        raise Reject("image-missing", f"no image among {have}", "Give the row an 'image': a path or bytes.")
    if isinstance(answer, Mapping):
        raise Reject("wrong-type", "the answer is an object", "Write the answer as text, or a list of allowed texts.")
    images = tuple(_loaded(image, base, store) for image in read_images(found, "image"))
    name = "" if found["id"] is None else str(found["id"])
    question, responses = question_text(found["question"]), _responses(found)
    if turns and sum(str(turn["content"]).count(MARKER) for turn in turns) != len(images):
        raise Reject("image-markers", f"the prompt's markers are not {len(images)}", "Write one <image> per image.")
    return LabelPrompt(
        file, row, name, images, question, responses, answer=None if answer is None else str(answer), turns=turns
    )


def _known_answer(record: Mapping[str, Any]) -> Any:
    """The answer of a question; of a critic row it would be the label of a comparison."""
    label = record.get("reward_model")
    if record.get("answer") is not None or not isinstance(label, Mapping) or _is_critic_row(record):
        return record.get("answer")
    return label.get("ground_truth")


def _turns(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The prompt of a row in verl's form; nothing where a question is to be asked in words of our own."""
    turns = record.get("prompt")
    if not isinstance(turns, list) or _is_critic_row(record) or "reward_model" not in record:
        return ()
    if not all(isinstance(turn, Mapping) and {"role", "content"} <= set(turn) for turn in turns):
        raise Reject("wrong-type", "a turn of the prompt lacks role or content", "Write both as text.")
    if not all(isinstance(turn["content"], str) for turn in turns):
        raise Reject("wrong-type", "the content of a turn is not text", "Write it as text with <image> markers.")
    return turns


def _is_critic_row(record: Mapping[str, Any]) -> bool:
    return str(record.get("data_source")).startswith("critic")


def _loaded(image: Image, base: str, store: ImageStore) -> Image:
    data = image.data if image.data is not None else store.load(image.path or "", base)
    check_whole(data, read_header(data))
    return Image(data, image.path)


def _responses(found: Mapping[str, Any]) -> tuple[str, ...]:
    if found["responses"] is not None:
        values = sequence(found, "responses")
        if len(values) > MOST_RESPONSES:
            raise Reject("bad-ranking", f"{len(values)} responses", f"At most {MOST_RESPONSES} are compared.")
    else:
        values = [found[name] for name in ("response_1", "response_2") if found[name] is not None]
        if len(values) == 1:
            raise Reject("missing-field", "one response of two", "Give both 'response_1' and 'response_2', or none.")
    return tuple(checked_text(value, "a response") for value in values)
