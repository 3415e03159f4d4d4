"""The questions that `critic-r1 label` and `best-of-n` read: anybody's rows, with their images loaded and looked at.

A row that cannot be used comes back as one that is lost, with its place, the reason and a remedy.
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
    responses: as they are compared; empty when they are to be drawn.
    written: response -> the text it was taken from, where that is another one.
    answer: the known answer to the question, where the row has one; labels do not come from it.
    """

    file: str
    row: int
    name: str
    images: tuple[Image, ...]
    question: str
    responses: tuple[str, ...] = ()
    written: Mapping[str, str] = field(default_factory=dict)
    answer: str | None = None

    @cached_property
    def content_id(self) -> str:
        """Equal images and question, equal id."""
        return content_id("prompt", *(image.blake3 for image in self.images), self.question)

    def messages(self, text: str) -> tuple[Message, ...]:
        """A user turn; `text` holds one marker per image."""
        return messages_from_row([{"role": "user", "content": text}], [{"bytes": image.data} for image in self.images])

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
    info = record.get("extra_info")
    # A row of our own Parquet has its prompt in words for a model; the bare question stands in extra_info.
    record = {**record, **{k: v for k, v in info.items() if v}} if isinstance(info, Mapping) else record
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
    images = tuple(_loaded(image, base, store) for image in read_images(found, "image"))
    name = "" if found["id"] is None else str(found["id"])
    question, responses = question_text(found["question"]), _responses(found)
    answer = None if record.get("answer") is None else str(record["answer"])
    return LabelPrompt(file, row, name, images, question, responses, answer=answer)


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
