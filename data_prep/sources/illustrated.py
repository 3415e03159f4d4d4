"""Responses that hold images: text with one `<image>` marker for each image of its own."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.sources.record import checked_text, read_image
from data_prep.sources.reject import Reject, same_responses
from data_prep.tasks.pairwise import Image, PreferencePair
from data_prep.tasks.prompts import MARKER, neutralise, without_markers


class Illustrated(NamedTuple):
    """A request or a response."""

    text: str
    images: tuple[Image, ...] = ()


def image_list(value: Any, what: str) -> tuple[Image, ...]:
    """The images of a list, of one image, or of nothing."""
    if value is None or value == "":
        return ()
    return tuple(read_image(item, what) for item in (value if isinstance(value, list | tuple) else [value]))


def illustrated(text: Any, images: Sequence[Image], what: str) -> Illustrated:
    """Text and images; markers stay where they are, and images without markers follow the text.

    Raises:
        Reject: `image-count`; the text has markers, and not one for each image. `empty-text`; there is neither.
    """
    shown = checked_text(text if text is not None else "", what, allow_empty=bool(images))
    if not images:
        return Illustrated(shown)
    markers = shown.count(MARKER)
    if markers not in (0, len(images)):
        raise Reject("image-count", f"{what} has {markers} image markers and {len(images)} images")
    if not markers:
        shown = f"{shown}\n{MARKER * len(images)}".strip()
    return Illustrated(shown, tuple(images))


def of_parts(parts: Any, what: str) -> Illustrated:
    """Parts as `[kind, value]`, where the kind is text or image.

    Raises:
        Reject: a part is of another kind.
    """
    if not isinstance(parts, list | tuple):
        raise Reject("wrong-type", f"{what} is a {type(parts).__name__}, not a list of parts")
    texts: list[str] = []
    images: list[Image] = []
    for part in parts:
        kind, value = part if isinstance(part, list | tuple) and len(part) == 2 else (None, None)
        if kind == "text":
            text = checked_text(value, f"a text part of {what}", allow_empty=True)
            texts.append(text.replace(MARKER, neutralise(MARKER)))
        elif kind == "image":
            texts.append(MARKER)
            images.append(read_image(value, f"an image part of {what}"))
        else:
            raise Reject("unshown-part", f"{what} has a part that is neither ['text', ...] nor ['image', ...]")
    return illustrated("\n".join(texts), images, what)


def illustrated_pair(
    source: str,
    request: Illustrated,
    responses: tuple[Illustrated, Illustrated],
    better: Any,
    meta: Mapping[str, Any] | None = None,
) -> PreferencePair:
    """A pair whose responses may hold images.

    Raises:
        Reject: `same-responses`; texts and images are the same.
    """
    first, second = responses
    if first == second:
        raise same_responses()
    known = {key: value for key, value in (meta or {}).items() if value is not None}
    images = (*request.images, *first.images, *second.images)
    counts = len(first.images), len(second.images)
    # Where all images are the question's, a single one comes before the prompt.
    question = request.text if any(counts) or len(request.images) > 1 else without_markers(request.text)
    if not question:
        raise Reject("empty-text", "the request is empty")
    return PreferencePair(source, images, question, (first.text, second.text), better, known, counts)


def image_pair(
    source: str, request: str, given: Sequence[Image], made: tuple[Any, Any], better: Any, meta: Mapping[str, Any]
) -> PreferencePair:
    """Two images that were made for one request.

    Args:
        given: images that came with the request, such as the one to edit.
        made: the two images, in any shape that `read_image` takes.
    """
    first, second = (
        image if isinstance(image, Image) else read_image(image, f"image {n}") for n, image in enumerate(made, 1)
    )
    responses = Illustrated(MARKER, (first,)), Illustrated(MARKER, (second,))
    return illustrated_pair(source, Illustrated(request, tuple(given)), responses, better, meta)
