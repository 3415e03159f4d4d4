"""Conversations in the forms that training frameworks use: who said what, and which response follows.

One reader knows the turns of OpenAI (`role`/`content`, content as text or as parts), of ShareGPT and LLaMA-Factory
(`from`/`value`), of LLaMA-Factory v1 (parts with `value`) and of Multimodal RewardBench 2 (parts as `[kind, value]`).
Every turn keeps its speaker. A turn, part or role that cannot be shown as what it is rejects the record by name.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.sources.illustrated import Illustrated, illustrated, image_list
from data_prep.sources.record import checked_text, get, read_image
from data_prep.sources.reject import Reject, shown_value
from data_prep.tasks.pairwise import Image
from data_prep.tasks.prompts import MARKER, neutralise, without_markers

ROLES = {
    **dict.fromkeys(("system", "developer"), "System"),
    **dict.fromkeys(("user", "human", "prompter"), "User"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "ai", "llava"), "Assistant"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "ipython"), "Tool"),
    **dict.fromkeys(("function_call", "tool_call"), "Tool call"),
}
"""Role in a data set -> the name under which the judge reads the turn."""

_UNSHOWN = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "audio")
"""Fields of a message whose content a judge would have to see, and that no prompt of ours shows."""


class Turn(NamedTuple):
    """One turn of a conversation."""

    speaker: str
    """A value of `ROLES`."""
    text: str
    """With a marker where an image part is, unless the text of a user has markers of its own."""
    images: tuple[Image | None, ...]
    """Images in the turn; None for one that the record holds elsewhere."""


def is_turn(value: Any) -> bool:
    """Whether a value looks like one turn."""
    return isinstance(value, Mapping) and ("role" in value or "from" in value)


def is_turns(value: Any) -> bool:
    """Whether a value looks like a list of turns."""
    return isinstance(value, list | tuple) and bool(value) and all(map(is_turn, value))


def read_turns(value: Any, what: str) -> list[Turn]:
    """The turns of a conversation; a single turn counts as a list of one.

    Raises:
        Reject: the value is not a list of turns, or one of them cannot be shown as what it is.
    """
    if is_turn(value):
        value = [value]
    if not isinstance(value, list | tuple) or not value:
        raise Reject("wrong-type", f"{what} is {shown_value(value)}, not a list of turns")
    return [_read_turn(turn, what) for turn in value]


def _read_turn(turn: Any, what: str) -> Turn:
    if not isinstance(turn, Mapping):
        raise Reject("wrong-type", f"a turn in {what} is {shown_value(turn)}, not an object")
    role = turn.get("role") if turn.get("role") is not None else turn.get("from")
    speaker = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    if speaker is None:
        remedy = "Rename the role in the data; known are " + ", ".join(ROLES) + "."
        raise Reject("unknown-role", f"a turn in {what} is by {shown_value(role)}", remedy)
    if unshown := next((key for key in _UNSHOWN if turn.get(key)), None):
        raise Reject("unshown-part", f"a turn in {what} has '{unshown}', which the prompt would not show")
    content = turn.get("content") if turn.get("content") is not None else get(turn, "value")
    text, images = read_content(content, f"a turn in {what}", literal=speaker == "Assistant")
    return Turn(speaker, text, images)


def read_content(content: Any, what: str, *, literal: bool = False) -> tuple[str, tuple[Image | None, ...]]:
    """Text and images of a turn or response: plain text, or a list of parts.

    Args:
        literal: whether markers in text parts are just text, so that only image parts are places of images.

    Raises:
        Reject: a part is neither text nor an image.
    """
    if isinstance(content, str):
        return checked_text(content, what, allow_empty=True), ()
    if not isinstance(content, list | tuple):
        raise Reject("wrong-type", f"{what} is {shown_value(content)}, neither text nor a list of parts")
    texts: list[str | None] = []  # None for an image
    images: list[Image | None] = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        if isinstance(part, list | tuple) and len(part) == 2:
            part = {"type": part[0], "value": part[1]}
        kind = get(part, "type")
        values = [part.get(key) for key in (kind, "value", "text", "image", "image_url", "url", "path", "bytes")
                  if isinstance(key, str)]  # fmt: skip
        value = next((v for v in values if v is not None), None)
        if kind in ("text", "input_text", "output_text"):
            texts.append(checked_text(value, f"a text part of {what}", allow_empty=True))
        elif kind in ("image", "image_url", "input_image"):
            texts.append(None)
            images.append(None if value is None or value == MARKER else read_image(value, f"an image part of {what}"))
        elif isinstance(kind, str) and kind.startswith("video"):
            raise Reject("video", "the record is about a video; only images are converted")
        else:
            raise Reject("unshown-part", f"{what} has a part of type {shown_value(kind)}, which the prompt cannot show")
    if images and literal:
        texts = [text and text.replace(MARKER, neutralise(MARKER)) for text in texts]
    marked = any(MARKER in text for text in texts if text is not None)
    shown = [MARKER if text is None else text for text in texts if text is not None or not marked]
    return checked_text("\n".join(shown), what, allow_empty=True), tuple(images)


def read_response(value: Any, what: str, images: Any = None) -> Illustrated:
    """A response: text, one assistant turn, or a list of one; its images are parts of it, or a column of their own.

    Args:
        images: the column of its images.

    Raises:
        Reject: it has several turns, is not by the assistant, or its images are elsewhere.
    """
    own = image_list(images, f"the images of {what}")
    if isinstance(value, str) or (own and value is None):
        return illustrated(value, own, what)
    turns = read_turns(value, what)
    if len(turns) != 1:
        raise Reject("several-turns", f"{what} has {len(turns)} turns; a response is one", "Leave the row out.")
    return response_of(turns[0], what, own)


def response_of(turn: Turn, what: str, own: tuple[Image, ...] = ()) -> Illustrated:
    """The assistant's turn that is a response.

    Args:
        own: images that have a column of their own.
    """
    if turn.speaker != "Assistant":
        raise Reject("unknown-role", f"{what} is a turn of the {turn.speaker.lower()}, not of the assistant")
    images = tuple(image for image in turn.images if image is not None) or own
    if len(images) < len(turn.images) or (own and len(own) != len(images)):
        raise Reject("response-image", f"{what} has an image part whose image is not in it")
    return illustrated(turn.text, images, what)


def fork(
    before: list[Turn], better: list[Turn], worse: list[Turn]
) -> tuple[list[Turn], tuple[Illustrated, Illustrated]]:
    """The turns that two conversations share, and the last turn of each."""
    if len(worse) == 1:
        worse = [*better[:-1], *worse]
    if [turn[:2] for turn in better[:-1]] != [turn[:2] for turn in worse[:-1]]:
        raise Reject("several-turns", "the two conversations differ before their last turn", "Leave the row out.")
    responses = response_of(better[-1], "the better response"), response_of(worse[-1], "the worse response")
    return [*before, *better[:-1]], responses


def question_of(turns: Sequence[Turn], what: str = "the conversation") -> str:
    """The conversation as the question of a task; several turns are written one after another with their speakers.

    Raises:
        Reject: it is empty, or does not end with a turn that the assistant answers.
    """
    # Frameworks write an absent system prompt as an empty turn.
    turns = [turn for turn in turns if turn.text or turn.images or turn.speaker != "System"]
    if not turns:
        raise Reject("empty-text", f"{what} holds no question")
    if turns[-1].speaker not in ("User", "Tool"):
        said = turns[-1].speaker.lower()
        raise Reject("trailing-turn", f"{what} ends with a turn of the {said}, so the responses do not follow it")
    texts = [without_markers(turn.text) for turn in turns]
    if any(MARKER in text for text in texts):  # the places of the images belong to what is said about them
        texts = [turn.text for turn in turns]
    if not texts[-1]:
        raise Reject("empty-text", f"the last turn of {what} is empty")
    if [turn.speaker for turn in turns] == ["User"]:
        return texts[0]
    return "\n".join(f"{turn.speaker}: {text}" for turn, text in zip(turns, texts, strict=True))


def images_of(turns: Sequence[Turn], given: tuple[Image, ...]) -> tuple[Image, ...]:
    """The images of a conversation, from its parts or from the record.

    Args:
        given: the images that the record holds outside the conversation.

    Raises:
        Reject: `image-count`; parts or `<image>` markers call for another number of images than there are.
    """
    parts = [image for turn in turns for image in turn.images]
    own = tuple(image for image in parts if image is not None)
    if own and (given or len(own) < len(parts)):
        if len(own) + len(given) != len(parts):
            raise Reject("image-count", f"{len(parts)} image parts, {len(given)} images outside the conversation")
        rest = iter(given)
        return tuple(image or next(rest) for image in parts)
    images = own or given
    markers = sum(turn.text.count(MARKER) for turn in turns if turn.speaker == "User")
    # One marker may announce several images, which all come before the text of a prompt.
    if (parts and len(parts) != len(images)) or markers > len(images):
        called = len(parts) or markers
        raise Reject("image-count", f"the conversation shows {called} images, and the record has {len(images)}")
    return images
