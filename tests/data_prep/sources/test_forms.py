"""The forms of training frameworks, read by `generic` as their authors write them."""

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.convert import convert
from data_prep.settings import Settings
from data_prep.sources.generic import check_columns
from data_prep.sources.record import Options, read_image
from data_prep.sources.registry import load_source
from data_prep.sources.reject import Reject
from data_prep.tasks.pairwise import PreferencePair
from tests.data_prep.made_images import make_image

PNG = make_image(1, form="PNG")
TEXT = base64.b64encode(PNG).decode()
URI = f"data:image/png;base64,{TEXT}"
SYSTEM, ASKED = "Answer in one word.", "What is it?"


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def said(speaker: str, value: Any) -> dict[str, Any]:
    return {"from": speaker, "value": value}


def part(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}]


FORMS: dict[str, dict[str, Any]] = {
    "TRL conversational": {
        "prompt": [turn("user", [{"type": "image", "text": None}, *part(ASKED)])],
        "images": ["1.jpg"],
        "chosen": [turn("assistant", part("A dog."))],
        "rejected": [turn("assistant", part("A cat."))],
    },
    "TRL implicit prompt": {
        "images": ["1.jpg"],
        "chosen": [turn("user", ASKED), turn("assistant", "A dog.")],
        "rejected": [turn("user", ASKED), turn("assistant", "A cat.")],
    },
    "our DPO output": {
        "id": "x",
        "pair_id": "y",
        "prompt": [turn("user", ASKED)],
        "images": ["1.jpg"],
        "chosen": [turn("assistant", "A dog.")],
        "rejected": [turn("assistant", "A cat.")],
        "confidence": 0.9,
    },
    "OpenAI parts": {
        "messages": [
            turn("user", [*part(ASKED), {"type": "image_url", "image_url": {"url": URI}}]),
            turn("assistant", part("A dog.")),
        ],
        "rejected_response": "A cat.",
    },
    "ms-swift rejected_response": {
        "messages": [turn("user", f"<image>{ASKED}"), turn("assistant", "A dog.")],
        "rejected_response": "A cat.",
        "images": ["1.jpg"],
    },
    "ms-swift rejected_messages": {
        "messages": [turn("user", ASKED), turn("assistant", "A dog.")],
        "rejected_messages": [turn("user", ASKED), turn("assistant", "A cat.")],
        "images": ["1.jpg"],
    },
    "ms-swift query": {"query": ASKED, "response": "A dog.", "rejected_response": "A cat.", "images": ["1.jpg"]},
    "LLaMA-Factory sharegpt": {
        "conversations": [said("human", f"<image>{ASKED}")],
        "chosen": said("gpt", "A dog."),
        "rejected": said("gpt", "A cat."),
        "images": ["1.jpg"],
    },
    "LLaMA-Factory alpaca": {
        "instruction": "What is",
        "input": "it?",
        "chosen": "A dog.",
        "rejected": "A cat.",
        "images": ["1.jpg"],
    },
    "LLaMA-Factory v1": {
        "chosen_messages": [
            turn("user", [{"type": "image_url", "value": "1.jpg"}, {"type": "text", "value": ASKED}]),
            turn("assistant", [{"type": "text", "value": "A dog."}]),
        ],
        "rejected_messages": [
            turn("user", [{"type": "image_url", "value": "1.jpg"}, {"type": "text", "value": ASKED}]),
            turn("assistant", [{"type": "text", "value": "A cat."}]),
        ],
    },
    "arena battle": {
        "question_id": "x",
        "model_a": "one",
        "model_b": "two",
        "conversation_a": [turn("user", ASKED), turn("assistant", "A dog.")],
        "conversation_b": [turn("user", ASKED), turn("assistant", "A cat.")],
        "winner": "model_a",
        "images": ["1.jpg"],
    },
    "POVID": {
        "id": "0",
        "image": "1.jpg",
        "conversations": [said("human", f"<image>\n{ASKED}"), said("gpt", "A dog.")],
        "rejected_conversations": [said("human", f"<image>\n{ASKED}"), said("gpt", "A cat.")],
    },
}


def converted(record: dict[str, Any], **options: Any) -> PreferencePair:
    (item,) = load_source("generic").convert(record, Options(**options))
    assert isinstance(item, PreferencePair)
    return item


def reason_of(record: dict[str, Any], **options: Any) -> Reject:
    with pytest.raises(Reject) as problem:
        converted(record, **options)
    return problem.value


@pytest.mark.parametrize("name", FORMS)
def test_form(name: str) -> None:
    pair = converted(FORMS[name])
    assert pair.question.replace("\n", " ") == ASKED
    assert (pair.responses, pair.preferred) == (("A dog.", "A cat."), 0)
    assert [image.path or image.data for image in pair.images] == [PNG if name == "OpenAI parts" else "1.jpg"]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_form_in_a_file(name: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(PNG)
    path = tmp_path / f"in.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([FORMS[name]]), path)
    else:
        path.write_text(json.dumps(FORMS[name]))
    manifest = convert([str(path)], tmp_path / "out", Settings("generic"))
    assert manifest["records"] == {"in": 1, "used": 1, "rejected": 0}


@pytest.mark.parametrize(
    ("changes", "question"),
    [
        ({"system": SYSTEM}, f"System: {SYSTEM}\nUser: {ASKED}"),
        ({"system": ""}, ASKED),
        ({"history": [["Hello.", "Hi."]]}, f"User: Hello.\nAssistant: Hi.\nUser: {ASKED}"),
        ({"tools": "[]"}, ASKED),
        ({"prompt": [turn("system", SYSTEM), turn("user", ASKED)]}, f"System: {SYSTEM}\nUser: {ASKED}"),
        ({"prompt": [said("system", ""), said("human", ASKED)]}, ASKED),
        (
            {"prompt": [turn("user", "Look it up."), turn("assistant", "Yes."), turn("tool", "A dog, says the page.")]},
            "User: Look it up.\nAssistant: Yes.\nTool: A dog, says the page.",
        ),
        (
            {"prompt": [said("human", "q"), said("function_call", "f()"), said("observation", "3")]},
            "User: q\nTool call: f()\nTool: 3",
        ),
    ],
)
def test_every_turn_keeps_its_speaker(changes: dict[str, Any], question: str) -> None:
    assert converted({**FORMS["our DPO output"], "prompt": ASKED, **changes}).question == question


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": [turn("user", ASKED), turn("assistant", "Well.")]}, "trailing-turn"),
        ({"prompt": [turn("narrator", ASKED)]}, "unknown-role"),
        ({"prompt": [turn("user", [{"type": "audio", "audio": "x"}])]}, "unshown-part"),
        ({"prompt": [turn("user", [{"type": "video", "video": "x.mp4"}])]}, "video"),
        ({"prompt": [turn("user", ASKED), {**turn("assistant", "x"), "tool_calls": [{"id": 1}]}]}, "unshown-part"),
        ({"prompt": [turn("user", [{"type": "image"}, {"type": "image"}, *part(ASKED)])]}, "image-count"),
        ({"prompt": [turn("user", "<image><image>" + ASKED)]}, "image-count"),
        ({"prompt": [turn("system", SYSTEM)]}, "trailing-turn"),
        ({"tools": '[{"name": "f"}]'}, "unshown-part"),
        ({"chosen": [turn("assistant", "a"), turn("tool", "b"), turn("assistant", "c")]}, "several-turns"),
        ({"chosen": [turn("user", "a")]}, "unknown-role"),
        ({"chosen": [turn("assistant", [{"type": "image", "image": "2.jpg"}, *part("a")])]}, "response-image"),
        ({"chosen": [turn("assistant", [{"type": "thinking", "thinking": "b"}, *part("a")])]}, "unshown-part"),
        ({"history": ["a"]}, "wrong-type"),
        ({"images": None}, "image-missing"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    assert reason_of({**FORMS["our DPO output"], **changes}).reason == reason


@pytest.mark.parametrize(("winner", "better"), [("model_b", 1), ("tie", "tie"), ("tie (bothbad)", "tie")])
def test_winners_of_battles(winner: str, better: Any) -> None:
    assert converted({**FORMS["arena battle"], "winner": winner}).preferred == better


def test_a_battle_of_several_turns_is_no_pair() -> None:
    more = [turn("user", "And?"), turn("assistant", "Yes.")]
    battle = FORMS["arena battle"]
    longer = {name: [*battle[name], *more] for name in ("conversation_a", "conversation_b")}
    assert reason_of({**battle, **longer}).reason == "several-turns"


def test_conversations_that_differ_before_their_last_turn_are_no_pair() -> None:
    other = [turn("user", "Another question?"), turn("assistant", "A cat.")]
    assert reason_of({**FORMS["ms-swift rejected_messages"], "rejected_messages": other}).reason == "several-turns"


def test_records_without_images_are_taken_only_when_asked_for() -> None:
    record = {"prompt": ASKED, "chosen": "A dog.", "rejected": "A cat."}
    assert reason_of(record).reason == "image-missing"
    absent: list[list[str] | None] = [None, []]
    for images in absent:
        assert converted({**record, "images": images}, text_only=True).images == ()
    assert reason_of({**record, "video": "a.mp4"}, text_only=True).reason == "video"


@pytest.mark.parametrize(
    "value",
    [
        TEXT,
        URI,
        URI.replace("image/png;", "image/png;name=a.png;"),
        TEXT + "\n",
        "\n".join(TEXT[i : i + 76] for i in range(0, len(TEXT), 76)),
        TEXT.replace("+", "-").replace("/", "_"),
        TEXT.rstrip("="),
        {"url": URI},
        {"type": "image_url", "image_url": {"url": URI}},
        {"type": "image_url", "image_url": URI},
        {"type": "image", "image": URI},
        {"bytes": TEXT, "path": None},
        {"bytes": PNG, "path": "a.png"},
        PNG,
    ],
    ids=lambda value: str(value)[:40],
)
def test_image_shapes(value: Any) -> None:
    assert read_image(value).data == PNG


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("data:image/png;base64", "image-unreadable"),
        ("data:image/png;base64,A", "image-unreadable"),
        (TEXT[:101], "image-unreadable"),
        ("https://example.org/a.png", "image-remote"),
        ({"image_url": {"url": "http://example.org/a.png"}}, "image-remote"),
        ({"url": {"url": {"url": {"url": URI}}}}, "image-missing"),
        (7, "image-missing"),
    ],
)
def test_a_bad_image_text_is_named(value: Any, reason: str) -> None:
    with pytest.raises(Reject) as problem:
        read_image(value)
    assert problem.value.reason == reason


@pytest.mark.parametrize("name", ["/9j/photo.jpg", "iVBORw0KGgo.png", "a" * 80, "9" * 70 + ".png"])
def test_a_file_name_is_no_base64(name: str) -> None:
    assert read_image(name).path == name


MAPPED = {
    "query": ASKED,
    "response": "A dog.",
    "answers": [{"text": "A dog."}, {"text": "A cat."}],
    "a.b": {"c": "A cat."},
    "nested": {"a.b": 1, "deep": {"list": [["x", "A dog."]]}},
    "image": "1.jpg",
    "label": 2,
}


@pytest.mark.parametrize(
    ("columns", "responses"),
    [
        ({"chosen": "answers[0].text", "rejected": "answers[1].text"}, ("A dog.", "A cat.")),
        ({"chosen": "response", "rejected": "answers[1].text"}, ("A dog.", "A cat.")),
        ({"response_1": "answers[1].text", "response_2": "nested.deep.list[0][1]"}, ("A cat.", "A dog.")),
    ],
)
def test_map_takes_paths_and_goes_before_usual_names(columns: dict[str, str], responses: tuple[str, str]) -> None:
    assert converted(MAPPED, columns=columns).responses == responses


def test_a_name_with_dots_is_a_column_before_it_is_a_path() -> None:
    record = {**MAPPED, "answers[0].text": "Literal."}
    pair = converted(record, columns={"chosen": "answers[0].text", "rejected": "answers[1].text"})
    assert pair.responses == ("Literal.", "A cat.")


@pytest.mark.parametrize("path", ["nothing", "answers[2].text", "answers[0].words", "response.text", "answers.text"])
def test_a_mapped_column_that_is_not_there_is_named(path: str) -> None:
    problem = reason_of(MAPPED, columns={"chosen": "response", "rejected": path})
    assert problem.reason == "missing-field"
    assert f"'{path}', which --map gives for 'rejected'" in problem.detail
    assert "answers" in problem.remedy


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"chosen": "a", "label": "b"}, "different forms"),
        ({"choice": "a"}, "FIELD=COLUMN"),
        ({"chosen": ""}, "name of the column is missing"),
    ],
)
def test_a_map_that_cannot_be_meant_is_refused(columns: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_columns(columns)
