"""Any set of your own, and the preference forms of training frameworks.

The form is found from the columns of the record; the first of these that is complete counts:

- `responses` with `rankings` (1 = best, ties allowed) or `scores` (higher = better);
- `response_1`, `response_2` and `label`; arena battles, with `conversation_a`, `conversation_b` and `winner`;
- `chosen` and `rejected` (TRL, LLaMA-Factory, our own DPO output), each text or turns;
- `messages` with `rejected_response` or `rejected_messages` (ms-swift), `chosen_messages` with `rejected_messages`
  (LLaMA-Factory v1), `conversations` with `rejected_conversations` (POVID): two conversations that differ in their last
  turn.

A response may hold images: as parts of its turn, or in a column beside it (`chosen_images`, `response_1_images`, ...).

The question is `question` (or a usual name), which may be a list of turns, or `conversations`. A system prompt
(`system`), `input` and `history` (Alpaca) are part of it. `--map FIELD=COLUMN` names a column, or a path such as
`answers[0].text`, and goes before any usual name.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from data_prep.sources.conversations import (
    Turn,
    fork,
    images_of,
    is_turn,
    is_turns,
    question_of,
    read_response,
    read_turns,
    response_of,
)
from data_prep.sources.illustrated import Illustrated, illustrated_pair
from data_prep.sources.labels import RawLabel
from data_prep.sources.record import (
    MOST_RESPONSES,
    Item,
    Options,
    Record,
    Source,
    checked_text,
    get,
    kept,
    number,
    parsed_json,
    read_images,
    sequence,
    with_frame_mark,
)
from data_prep.sources.reject import Reject, same_responses
from data_prep.tasks.nway import RankedResponses
from data_prep.tasks.pairwise import Image, PreferencePair
from data_prep.tasks.prompts import without_markers

ALIASES: dict[str, tuple[str, ...]] = {
    "question": ("question", "prompt", "query", "instruction"),
    "image": ("image", "images", "image_path", "img_path"),
    "chosen": ("chosen",),
    "rejected": ("rejected", "rejected_response"),
    "response_1": ("response_1", "response_a", "output_1", "response1", "answer_a"),
    "response_2": ("response_2", "response_b", "output_2", "response2", "answer_b"),
    "label": ("label", "preference", "preferred", "winner", "better", "answer"),
    "chosen_image": ("chosen_image", "chosen_images"),
    "rejected_image": ("rejected_image", "rejected_images"),
    "response_1_image": ("response_1_images", "response_a_images", "response_1_image", "response_a_image"),
    "response_2_image": ("response_2_images", "response_b_images", "response_2_image", "response_b_image"),
    "responses": ("responses", "response", "completions"),
    "rankings": ("rankings", "ranking", "ranks"),
    "scores": ("scores", "ratings"),
    "conversations": ("conversations", "messages"),
    "system": ("system", "system_prompt"),
    "id": ("id", "idx", "ID"),
}
"""Our field -> names that are tried in this order when the field is not mapped."""

PAIR, CHOSEN, RANKED = (
    ("response_1", "response_2", "label", "response_1_image", "response_2_image"),
    ("chosen", "rejected", "chosen_image", "rejected_image"),
    ("responses", "rankings", "scores"),
)

_BRANCHES = (
    ("messages", "rejected_messages"),
    ("chosen_messages", "rejected_messages"),
    ("conversations", "rejected_conversations"),
)
"""Columns of two conversations that differ in their last turn; the better one first."""


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuse a `--map` that cannot be meant.

    Raises:
        ValueError: an unknown field, a path that is none, or fields of two forms.
    """
    for field, path in columns.items():
        if field not in ALIASES:
            raise ValueError(f"--map {field}={path}: give FIELD=COLUMN, with a field of {', '.join(ALIASES)}")
        if not path:
            raise ValueError(f"--map {field}=: the name of the column is missing")
    forms = [f for f in (RANKED, PAIR, CHOSEN) if any(field in columns for field in f)]
    if len(forms) > 1:
        named = " and ".join(field for form in forms for field in form if field in columns)
        raise ValueError(f"--map names {named}, which belong to different forms; see docs/data.md")


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair, or the ranked responses."""
    if not hasattr(record, "get"):
        raise Reject("wrong-type", f"the record is a {type(record).__name__}, not an object")
    try:
        yield _item(record, _fields(record, options), options)
    except Reject as problem:
        if problem.reason != "missing-field":
            raise
        have = ", ".join(sorted(map(str, record))[:20])
        remedy = f"The record has: {have}. Name its columns: --map question=COLUMN, and so on."
        raise Reject(problem.reason, problem.detail, remedy) from None


def _item(record: Record, fields: dict[str, Any], options: Options) -> PreferencePair | RankedResponses:
    form, better = _form(fields, options), 0
    if form is None and fields["battle"] is not None:
        first, second = fields["battle"]
        turns, responses = fork(
            _before(fields), read_turns(first, "'conversation_a'"), read_turns(second, "'conversation_b'")
        )
        better = options.labels.read(get(fields, "label"))
    elif form is None and (found := _branches(record, fields)) is not None:
        turns, responses = found
    else:
        turns, shared = _prompt(fields)
        if form is RANKED:
            return _ranked(fields, *_shown(turns, fields, options, none=options.text_only))
        first, second, *_ = PAIR if form is PAIR else CHOSEN
        chosen, rejected = fields["chosen"], fields["rejected"]
        whole = form is not PAIR and is_turns(chosen) and is_turns(rejected)
        if whole and (shared or (len(chosen) > 1 and _is_asked(turns, chosen))):
            before = turns if shared else _before(fields)
            turns, responses = fork(before, read_turns(chosen, "'chosen'"), read_turns(rejected, "'rejected'"))
        else:
            responses = _response(fields, first), _response(fields, second)
        if form is PAIR:
            better = options.labels.read(get(fields, "label"))
    none = options.text_only or any(response.images for response in responses)
    images, question = _shown(turns, fields, options, none=none)
    return illustrated_pair("generic", Illustrated(question, images), responses, better, kept(fields, "id"))


def _response(fields: dict[str, Any], name: str) -> Illustrated:
    """The response in a field, with the images in the field beside it."""
    images = fields[f"{name}_image"]
    return read_response(fields[name] if images else get(fields, name), f"'{name}'", images)


def _form(fields: dict[str, Any], options: Options) -> tuple[str, ...] | None:
    """The form that the user mapped, or else the first one that the record has; None for none of these three."""
    for form in (RANKED, PAIR, CHOSEN):
        if any(field in options.columns for field in form):
            return form
    if isinstance(fields["responses"], list | tuple):
        return RANKED
    if any(fields[name] is not None for name in (*PAIR[:2], *PAIR[3:])):
        return PAIR
    return CHOSEN if fields["chosen"] is not None or fields["chosen_image"] is not None else None


def _fields(record: Record, options: Options) -> dict[str, Any]:
    """Our fields from the record; what the user mapped is not taken for another field, too."""
    fields: dict[str, Any] = {"video": record.get("video")}
    mapped = set(options.columns.values())
    for field, names in ALIASES.items():
        if field in options.columns:
            fields[field] = _at(record, options.columns[field], field)
        else:
            fields[field] = next((record[n] for n in names if n not in mapped and record.get(n) is not None), None)
        fields[field] = _parsed(fields[field], field)
    if "question" in options.columns and "conversations" not in options.columns:
        fields["conversations"] = None
    battle = record.get("conversation_a"), record.get("conversation_b")
    fields["battle"] = battle if battle[0] is not None and battle[1] is not None else None
    for name in ("input", "history", *_UNSHOWN):
        fields[name] = None if name in mapped else record.get(name)
    if fields["chosen"] is None and isinstance(fields["responses"], str) and fields["rejected"] is not None:
        fields["chosen"] = fields["responses"]  # ms-swift: `response` and `rejected_response`
    return fields


_UNSHOWN = ("tools", "videos", "audio", "audios")
"""Columns of what a judge would have to see, and that no prompt of ours shows."""


_TURNS = re.compile(r"\s*\[?\s*\{\s*['\"](?:role|from|content|value)['\"]\s*:")


def _parsed(value: Any, field: str) -> Any:
    """The value, or the turns that it holds as JSON in a text."""
    return parsed_json(value, f"'{field}'") if isinstance(value, str) and _TURNS.match(value) else value


_STEP = re.compile(r"([^.\[\]]+)|\[(\d{1,6})\]")


@lru_cache(maxsize=64)
def _steps(path: str) -> tuple[str | int, ...]:
    return tuple(int(index) if index else name for name, index in _STEP.findall(path))


def _at(record: Record, path: str, field: str) -> Any:
    """The value of a column, or of a path such as `a.b[0].c` into nested ones.

    Raises:
        Reject: `missing-field`; the message names the column.
    """
    value: Any = record.get(path)
    if value is None and path not in record:
        value = record
        for step in _steps(path):
            if isinstance(step, str) and isinstance(value, Mapping):
                value = value.get(step)
            elif isinstance(value, list | tuple) and str(step).isdecimal() and int(step) < len(value):
                value = value[int(step)]
            else:
                value = None
    if value is None:
        raise Reject("missing-field", f"'{path}', which --map gives for '{field}', is missing or null")
    return value


def _prompt(fields: dict[str, Any]) -> tuple[list[Turn], bool]:
    """The turns before the responses, and whether they lack a question of their own (TRL's implicit prompt)."""
    question, talk = fields["question"], fields["conversations"]
    if isinstance(talk, str):
        raise Reject("wrong-type", "the conversation is text, not a list of turns", "Or name it with --map question=.")
    question = talk if question is None else question
    before = _before(fields)
    if question is None and is_turns(fields["chosen"]) and len(fields["chosen"]) > 1:
        return before, True
    if is_turns(question) or is_turn(question):
        return [*before, *read_turns(question, "the prompt")], False
    if question is None:
        raise Reject("missing-field", "'question' is missing or null")
    if is_turns(talk) and sum(turn.speaker != "Assistant" for turn in read_turns(talk, "the conversation")) > 1:
        detail = "the record has a question and a conversation of several turns"
        raise Reject("ambiguous-prompt", detail, "Say which is meant: --map question=COLUMN.")
    asked = checked_text(question, "'question'")
    if isinstance(fields["input"], str) and fields["input"].strip():
        asked += "\n" + fields["input"].strip()
    return [*before, Turn("User", asked, ())], False


def _before(fields: dict[str, Any]) -> list[Turn]:
    """The system prompt and the earlier questions and answers, where they have columns of their own."""
    for name in _UNSHOWN:
        if fields[name] not in (None, "", "[]", [], ()):
            reason = "video" if name.startswith("video") else "unshown-part"
            raise Reject(reason, f"the record has '{name}', which the prompt would not show", "Leave the row out.")
    if fields["rejected_image"] and not fields["chosen_image"]:  # ms-swift: in the place of the question's images
        raise Reject("unshown-part", "only the rejected response has images of its own", "Leave the row out.")
    turns = []
    if fields["system"] is not None:
        turns.append(Turn("System", checked_text(fields["system"], "'system'", allow_empty=True), ()))
    for entry in fields["history"] or ():
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            raise Reject("wrong-type", "'history' is not a list of pairs of a question and an answer")
        turns.append(Turn("User", checked_text(entry[0], "a question in 'history'"), ()))
        turns.append(Turn("Assistant", checked_text(entry[1], "an answer in 'history'"), ()))
    return turns


def _is_asked(turns: list[Turn], talk: Any) -> bool:
    """Whether the one question is also the last turn before the response that ends a conversation."""
    asked = read_turns(talk, "'chosen'")[-2]
    return asked.speaker == "User" and without_markers(asked.text) == without_markers(turns[-1].text)


def _branches(record: Record, fields: dict[str, Any]) -> tuple[list[Turn], tuple[Illustrated, Illustrated]] | None:
    """Prompt and responses of two whole conversations, or of one and another response; None where there are none."""
    before = _before(fields)
    talk = fields["conversations"]
    if fields["rejected"] is not None and is_turns(talk) and fields["question"] is None:
        *turns, last = read_turns(talk, "the conversation")
        responses = response_of(last, "the last turn"), read_response(fields["rejected"], "'rejected_response'")
        return [*before, *turns], responses
    for better, worse in _BRANCHES:
        if record.get(better) is not None and record.get(worse) is not None:
            return fork(before, read_turns(record[better], f"'{better}'"), read_turns(record[worse], f"'{worse}'"))
    return None


def _shown(turns: list[Turn], fields: dict[str, Any], options: Options, *, none: bool) -> tuple[tuple[Image, ...], str]:
    """Images and question.

    Args:
        none: whether the question may come without images.
    """
    question = question_of(turns, "the prompt")
    none = none or any(image is not None for turn in turns for image in turn.images)
    absent = fields["image"] is None and fields["video"] is None
    given = (
        () if none and (absent or fields["image"] in ([], ())) else read_images(fields, "image", frames=options.frames)
    )
    return images_of(turns, given), with_frame_mark(given, question)


def _ranked(fields: dict[str, Any], images: tuple[Image, ...], question: str) -> RankedResponses:
    responses = tuple(checked_text(r, "a response") for r in sequence(fields, "responses"))
    by_rank = fields.get("rankings") is not None
    ranks = tuple(number(r, "a rank") for r in sequence(fields, "rankings" if by_rank else "scores"))
    if not by_rank:
        ranks = tuple(-r for r in ranks)
    if len(ranks) != len(responses) or not 2 <= len(responses) <= MOST_RESPONSES:
        raise Reject("bad-ranking", f"{len(responses)} responses with {len(ranks)} ranks")
    if len({r.strip() for r in responses}) < 2:
        raise same_responses("all responses are the same text")
    return RankedResponses("generic", images, question, responses, ranks, kept(fields, "id"))


def label(record: Record, options: Options) -> RawLabel | None:
    """The label of a record in the form with two responses and a label; None in any other form."""
    try:
        fields = _fields(record, options)
    except Reject:
        return None
    form = _form(fields, options)
    battle = form is None and fields["battle"] is not None
    if fields["label"] is None or not (form is PAIR or battle):
        return None
    if battle:
        return RawLabel(fields["label"], ("model_a", "model_b"), _column(record, "label", options) or "")
    first, second, own = (_column(record, field, options) for field in PAIR[:3])
    return RawLabel(fields["label"], (first, second) if first and second else None, own or "")


def _column(record: Record, field: str, options: Options) -> str | None:
    """The name of the column that a field is read from."""
    return options.columns.get(field) or next((n for n in ALIASES[field] if record.get(n) is not None), None)


SOURCE = Source(
    "generic",
    "any set of your own",
    convert,
    licence="yours to state",
    size="any",
    label_rule="chosen / label / rankings / scores; map columns with --map",
    label=label,
)
