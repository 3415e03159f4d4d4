"""What a source is, and how it reads one record without trusting it.

A source is a function from one published record to preference pairs. It does no I/O and keeps no state, so it runs in
any process and on any machine. It raises `Reject` for a bad record and yields `Reject` for a part of a good record that
it leaves out; both are counted and written down. The accessors below turn every surprise (a missing key, a list instead
of text, broken JSON inside JSON) into a reject.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data_prep.sources.inline_image import inline_image
from data_prep.sources.labels import Labels, RawLabel
from data_prep.sources.reject import Reject, same_responses, shown_value
from data_prep.tasks.nway import RankedResponses
from data_prep.tasks.pairwise import Image, PreferencePair
from data_prep.tasks.pointwise import ScoredResponse
from data_prep.tasks.prompts import MARKER

__all__ = ["Item", "Options", "Record", "Reject", "Source"]

Item = PreferencePair | ScoredResponse | RankedResponses | Reject
"""What a source yields; a `Reject` replaces a pair that is left out of a record, and is counted."""
Record = Mapping[str, Any]

LONGEST_TEXT = 200_000
"""Characters of one question or response. A longer one fits no model's context; it is a broken row."""

MOST_RESPONSES = 64
"""Candidates of one record; a longer list expands to thousands of pairs and is a broken row."""

# Tuples made once: `str | int` in an isinstance is built anew, and compared slowly, for every value of every record.
_PLAIN = (str, int, float)
_BYTES = (bytes, memoryview)
_LISTS = (list, tuple)


@dataclass(frozen=True)
class Options:
    """What the user may choose about reading records."""

    min_gap: float = 0.6
    """VLFeedback: two mean ratings must differ by more (paper: 0.6). Equal ratings are a tie, not too close."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """`generic` only: our field name -> the record's column or path."""
    labels: Labels = field(default_factory=lambda: Labels(base=1))
    """What the values of the label column mean; `prepare` finds it out from the whole column."""
    text_only: bool = False
    """`generic` and conversations: take records without any image."""


@dataclass(frozen=True)
class Source:
    """One public data set: how to read it and what to know about it."""

    name: str
    title: str
    """The set's own name on its hub."""
    convert: Callable[[Record, Options], Iterable[Item]]
    licence: str
    """As its data card says; `see card` where the card leaves it open or it differs by part."""
    size: str
    label_rule: str
    """Where the label comes from, in a few words."""
    label: Callable[[Record, Options], RawLabel | None] | None = None
    """The label column of a record, for `labels.Survey`; None where the set has no such column."""
    label_base: int | None = None
    """The number that names the first response, where the set's card states it."""
    needs_image_root: bool = False
    """Whether the set ships file names only."""
    own: bool = False
    """Whether a user wrote it: what it yields is checked more closely."""


def get(record: Record, key: str) -> Any:
    """The value under `key`, which must not be null."""
    if type(record) is not dict and not isinstance(record, Mapping):
        raise Reject("wrong-type", f"the record is a {type(record).__name__}, not an object")
    value = record.get(key)
    if value is None:
        have = ", ".join(sorted(map(str, record))[:20])
        raise Reject(
            "missing-field", f"'{key}' is missing or null", f"The record has: {have}. Is this the right source?"
        )
    return value


def checked_text(value: Any, what: str, *, allow_empty: bool = False) -> str:
    """`value` if it is a text of sensible length; it is stripped of blank space at its ends."""
    if not isinstance(value, str):
        raise Reject("wrong-type", f"{what} is a {type(value).__name__}, not text")
    if len(value) > LONGEST_TEXT:
        raise Reject("text-too-long", f"{what} has {len(value)} characters; at most {LONGEST_TEXT} are taken")
    stripped = value.strip()
    if not stripped and not allow_empty:
        raise Reject("empty-text", f"{what} is empty")
    return stripped


def text(record: Record, key: str) -> str:
    """The non-empty text under `key`."""
    return checked_text(get(record, key), f"'{key}'")


def sequence(record: Record, key: str) -> list[Any]:
    """The list under `key`."""
    value = get(record, key)
    if not isinstance(value, _LISTS):
        raise Reject("wrong-type", f"'{key}' is a {type(value).__name__}, not a list")
    return list(value)


def parsed_json(value: Any, what: str) -> Any:
    """`value` itself, or what it says if it is JSON in a text."""
    if not isinstance(value, str):
        return value
    if len(value) > 4 * LONGEST_TEXT:
        raise Reject("text-too-long", f"{what} has {len(value)} characters")
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Reject("bad-json", f"{what} is not valid JSON ({error})", "Fetch the file again.") from None


def number(value: Any, what: str) -> float:
    """`value` as a finite number."""
    try:
        if isinstance(value, bool):
            raise ValueError
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        raise Reject("bad-rating", f"{what} is {shown_value(value)}, not a number") from None
    if not math.isfinite(result):
        raise Reject("bad-rating", f"{what} is {result}, not a finite number")
    return result


def read_image(value: Any, what: str = "'image'") -> Image:
    """An image in any of the shapes that data sets use.

    These are `{bytes, path}`, bytes, a file name, a data URI, base64 text, and the image parts of chat messages
    (`{"image_url": {"url": ...}}` and the like).
    """
    for _ in range(3):  # an image part holds an address, which may be an object again
        if type(value) is not dict and not isinstance(value, Mapping):
            break
        data, path = value.get("bytes"), value.get("path")
        if isinstance(data, _BYTES):
            return Image(data, path if isinstance(path, str) else None)
        value = next((v for v in (data, path, *map(value.get, ("image_url", "image", "url"))) if v is not None), None)
    if isinstance(value, _BYTES):
        return Image(value)
    if isinstance(value, str) and value.strip():
        if value.startswith(("http://", "https://")):
            raise Reject("image-remote", f"{what} is an address", "Fetch the images first and give --image-root.")
        data = inline_image(value, what)
        return Image(data) if data is not None else Image(path=value.strip())
    raise Reject("image-missing", f"{what} holds neither bytes nor a file name")


def read_images(record: Record, *keys: str) -> tuple[Image, ...]:
    """The images under the first of `keys` that is there; a list or a single one.

    Records about a video are rejected with a reason of their own, since no image represents it.
    """
    for key in keys:
        value = record.get(key)
        if value is not None:
            what = f"'{key}'"
            if not isinstance(value, _LISTS):
                return (read_image(value, what),)
            if not value:
                raise Reject("image-missing", f"{what} is an empty list")
            return tuple([read_image(item, what) for item in value])
    if record.get("video") is not None:
        raise Reject("video", "the record is about a video; only images are converted")
    raise Reject("image-missing", f"no {' or '.join(map(repr, keys))} in the record")


def without_markers(question: str) -> str:
    """The question without the image markers that a source puts at its start or end."""
    if MARKER not in question:
        return question.strip()
    while True:
        shorter = question.strip().removeprefix(MARKER).removesuffix(MARKER).strip()
        if shorter == question:
            return question
        question = shorter


def question_text(value: Any, what: str = "'question'") -> str:
    """A non-empty question without image markers at its ends."""
    found = without_markers(checked_text(value, what))
    if not found:
        raise Reject("empty-text", f"{what} is empty")
    return found


def make_pair(
    source: str,
    images: tuple[Image, ...],
    question: str,
    responses: tuple[str, str],
    better: Any,
    meta: Mapping[str, Any] | None = None,
) -> PreferencePair:
    """A pair with two different responses.

    Raises:
        Reject: `same-responses`; nobody can prefer one of two equal texts.
    """
    if responses[0].strip() == responses[1].strip():
        raise same_responses()
    known = {key: value for key, value in meta.items() if value is not None} if meta else {}
    return PreferencePair(source, images, question, responses, better, known)


def kept(record: Record, *keys: str) -> dict[str, Any]:
    """Plain values of `keys` for `meta`; anything large or nested is left out."""
    found = {}
    for key in keys:
        value = record.get(key)
        if isinstance(value, _PLAIN) and len(str(value)) <= 500:
            found[key] = value
    return found


def chosen_rejected(
    source: str, record: Record, question_key: str, image_keys: tuple[str, ...], *keep: str
) -> PreferencePair:
    """The most common shape: a question, a chosen and a rejected response as texts. The chosen one comes first."""
    return make_pair(
        source,
        read_images(record, *image_keys),
        question_text(get(record, question_key), f"'{question_key}'"),
        (text(record, "chosen"), text(record, "rejected")),
        0,
        kept(record, "id", *keep),
    )
