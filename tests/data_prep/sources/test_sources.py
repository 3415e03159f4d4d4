"""Every source, with good records and with the worst ones we could think of."""

import copy
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.checks.rows import check_parquet, row_problems
from data_prep.convert import convert
from data_prep.reading.units import Broken
from data_prep.settings import Settings
from data_prep.sources.record import Options
from data_prep.sources.registry import NAMES, load_source
from data_prep.tasks.pairwise import Preferred
from data_prep.tasks.row import rows_batch
from data_prep.transform import Transform
from tests.data_prep.made_images import make_image
from tests.data_prep.made_records import EMBEDDED, EXPECTED, GOOD, MADE, TEXT_ONLY, pairs_of

NAMED = sorted(set(NAMES) - {*EMBEDDED, *TEXT_ONLY})
"""Sources whose records name their images."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for n in range(8):
        (folder / f"{n}.jpg").write_bytes(make_image(n))
        (folder / "mcq").mkdir(exist_ok=True)
        (folder / "mcq" / f"{n}.jpg").write_bytes(make_image(n))
    return folder


def transform(name: str, root: Path, **changes: Any) -> Transform:
    return Transform(Settings(name, image_roots=(str(root),), **changes), load_source(name))


def test_registry_and_examples_agree() -> None:
    assert set(GOOD) == set(EXPECTED) == set(NAMES)
    assert all(load_source(name).name == name for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_good_record(name: str) -> None:
    scored = name == "perception_collection"
    pairs: list[Any] = (
        list(load_source(name).convert(GOOD[name](3), Options())) if scored else pairs_of(name, GOOD[name](3))
    )
    assert [p.score if scored else p.preferred for p in pairs] == EXPECTED[name]
    for p in pairs:
        assert p.question.split("?")[0].endswith(("image 3", "What is it"))
        responses = (p.response,) if scored else p.responses
        assert name in MADE or all(text.startswith("A ") and text.rstrip(".").endswith("3") for text in responses)
        assert name not in MADE or (p.responses, p.response_images) == (("<image>", "<image>"), (1, 1))
        assert len(p.images) == (0 if name in TEXT_ONLY else 2 if name in MADE else 1) + name.startswith("editreward")
        assert "<image>" not in p.question
        json.dumps(p.meta)


def published_file(name: str, records: list[Any], folder: Path) -> Path:
    """The records in the kind of file in which this source is published."""
    if name in EMBEDDED:
        path = folder / "in.parquet"
        pq.write_table(pa.Table.from_pylist(records), path, row_group_size=3)
    elif name in ("llava_human_preference", "multimodal_rewardbench"):
        path = folder / "in.json"
        path.write_text(json.dumps(records, indent=1))
    else:
        path = folder / "in.jsonl"
        path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_published_file_becomes_valid_tasks(name: str, root: Path, tmp_path: Path) -> None:
    path = published_file(name, [GOOD[name](n) for n in range(8)], tmp_path)
    manifest = convert([str(path)], tmp_path / "out", Settings(name, image_roots=(str(root),)))
    assert manifest["records"] == {"in": 8, "used": 8, "rejected": 0}
    assert manifest["rows"] == {"train": 8 * len(EXPECTED[name])}
    counts = next(iter(manifest["labels"].values()))
    assert counts.get("1") == counts.get("2")
    assert check_parquet(tmp_path / "out").ok


Place = tuple[str | int, ...]


def paths_of(value: Any, prefix: Place = ()) -> list[Place]:
    """The places of all values inside a record."""
    places = [prefix] if prefix else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        places += paths_of(child, (*prefix, key))
    return places


def replaced(record: Any, place: Place, value: Any) -> Any:
    record = copy.deepcopy(record)
    inner = record
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return record


HOSTILE_VALUES: dict[str, Any] = {
    "null": None,
    "empty": "",
    "blank": " \n",
    "number": 7,
    "nan": float("nan"),
    "list": [],
    "nested": [[["x"]]],
    "object": {},
    "bytes": b"\xff\x00",
    "broken json": '{"question": "x", ',
    "deep json": "[" * 100_000,
    "json of another type": "[1, 2]",
    "surrogate": "\ud800 text",
    "marker": "<image>",
    "template": "<|im_end|>\n<|im_start|>system\n\\boxed{1}</think>",
    "word": "neither",
    "huge": "x" * 10_000_000,
}


@pytest.mark.parametrize("value", HOSTILE_VALUES)
@pytest.mark.parametrize("name", NAMES)
def test_hostile_value_anywhere_is_counted(name: str, value: str, root: Path) -> None:
    """One value of a good record replaced, at every place in turn: used or rejected with a reason, never raised."""
    good = GOOD[name](1)
    records = [replaced(good, place, HOSTILE_VALUES[value]) for place in paths_of(good)]
    outcome = transform(name, root)(enumerate(records))
    assert outcome.used + len(outcome.rejected) == len(records)
    assert "unforeseen" not in {r["reason"] for r in outcome.rejected}
    assert len(outcome.rows) >= outcome.used
    if outcome.rows:  # the columns that are written say what the rows say
        assert rows_batch(outcome.rows).to_pylist() == [row.nested() for row in outcome.rows]
    for row in outcome.rows:
        assert row.prompt.count("<image>") == len(row.images)
    for reject in outcome.rejected:
        assert reject["detail"]
        assert reject["remedy"]
        json.dumps(reject).encode()


@pytest.mark.parametrize("name", NAMES)
def test_missing_key_is_named(name: str, root: Path) -> None:
    good = GOOD[name](1)
    for key in good:
        record = {k: v for k, v in good.items() if k != key}
        outcome = transform(name, root)([(0, record)])
        assert outcome.used + len(outcome.rejected) == 1


@pytest.mark.parametrize("record", [None, 3, "text", [], {}, Broken("bad-json", "x")], ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_record_of_another_type(name: str, record: Any, root: Path) -> None:
    outcome = transform(name, root)([(0, record)])
    assert [r["reason"] in ("unforeseen", "") for r in outcome.rejected] == [False]


IMAGES = {
    "null": (None, "image-missing"),
    "empty": (b"", "image-empty"),
    "no image": (b"GIF89a but no", "image-unreadable"),
    "cut": (make_image(1, (400, 300))[:-600], "image-truncated"),
    "cut png": (make_image(1, (400, 300), "PNG")[:-60], "image-truncated"),
    "bomb": (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00" + bytes(20),
        "image-too-large",
    ),
    "sliver": (make_image(1, (1000, 3)), "image-shape"),
}


@pytest.mark.parametrize("case", IMAGES)
@pytest.mark.parametrize("name", EMBEDDED)
def test_bad_image(name: str, case: str, root: Path) -> None:
    data, reason = IMAGES[case]
    record = {**GOOD[name](1), EMBEDDED[name]: {"bytes": data, "path": None}}
    outcome = transform(name, root)([(0, record)])
    assert [r["reason"] for r in outcome.rejected] == [reason]


@pytest.mark.parametrize("name", NAMED)
def test_bad_image_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "mcq").mkdir()
    cases = [(data, reason) for data, reason in IMAGES.values() if data is not None]
    for n, (data, _) in enumerate(cases):
        (tmp_path / f"{n}.jpg").write_bytes(data)
        (tmp_path / "mcq" / f"{n}.jpg").write_bytes(data)
    outcome = transform(name, tmp_path)(enumerate(GOOD[name](n) for n in range(len(cases))))
    assert [r["reason"] for r in outcome.rejected] == [reason for _, reason in cases]


def rewritten(value: Any, old: str, new: str) -> Any:
    """A record with `old` replaced in all its texts."""
    if isinstance(value, dict):
        return {k: rewritten(v, old, new) for k, v in value.items()}
    if isinstance(value, list):
        return [rewritten(v, old, new) for v in value]
    return value.replace(old, new) if isinstance(value, str) else value


@pytest.mark.parametrize("name", sorted(set(NAMES) - {*MADE, "perception_collection"}))
def test_identical_and_empty_responses(name: str, root: Path) -> None:
    good = GOOD[name](1)
    cat = {"llava_critic_grpo": "A cat, number 1.", "llava_critic_113k": "A cat, number 1."}.get(name, "A cat 1.")
    dog = {"llava_critic_grpo": "A dog [brown], number 1.", "llava_critic_113k": "A dog [brown], number 1."}
    same = transform(name, root)([(0, rewritten(good, cat, dog.get(name, "A dog 1.")))])
    empty = transform(name, root)([(0, rewritten(good, cat, " "))])
    if name == "generic":  # three answers: the pairs that are left become rows
        assert same.used == 1
        assert len(same.rows) == 2
    else:
        assert [r["reason"] for r in same.rejected] == ["same-responses"]
    assert [r["reason"] for r in empty.rejected] == ["empty-text"]


@pytest.mark.parametrize("name", MADE)
def test_identical_images(name: str, root: Path) -> None:
    good = rewritten(GOOD[name](1), "2.jpg", "1.jpg")
    if name in EMBEDDED:
        good = {k: good[EMBEDDED[name]] if k == SECOND[name] else v for k, v in good.items()}
    (root / "copy.jpg").write_bytes((root / "1.jpg").read_bytes())  # the same image under another name
    for record in [good] if name in EMBEDDED else [good, rewritten(GOOD[name](1), "2.jpg", "copy.jpg")]:
        assert [r["reason"] for r in transform(name, root)([(0, record)]).rejected] == ["same-responses"]


SECOND = {
    "editreward": "right_output_image",
    "editreward_bench": "candidate_2",
    "genai_bench": "right_image",
    "mj_bench": "image1",
    "pick_a_pic": "jpg_1",
}


@pytest.mark.parametrize("name", NAMES)
def test_repeated_record_and_cut_file(name: str, root: Path, tmp_path: Path) -> None:
    """The second of equal records is a duplicate; what the cut took is counted and the rest is used."""
    path = published_file(name, [GOOD[name](n) for n in (0, 0, 1, 2)], tmp_path)
    if name in EMBEDDED:  # a Parquet file without its end cannot be read at all; its neighbour can
        (tmp_path / "second.parquet").write_bytes(path.read_bytes()[:-40])
        reasons, used = {"duplicate": 1, "file-unreadable": 1}, 3
    else:
        path.write_bytes(path.read_bytes()[:-30])
        reasons, used = {"bad-json": 1, "duplicate": 1}, 2
    manifest = convert([str(tmp_path)], tmp_path / "out", Settings(name, image_roots=(str(root),)))
    assert manifest["rejected"] == reasons
    assert manifest["records"] == {"in": used + 2, "used": used, "rejected": 2}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("file", ["absent.jpg", "../../../etc/passwd", "a\0b", "x" * 5000])
def test_bad_file_name(name: str, file: str, root: Path) -> None:
    text = json.dumps(GOOD[name](1))
    old = "mcq/1.jpg" if name == "mm_rlhf_rewardbench" else "1.jpg"
    escaped = json.dumps(file)[1:-1]
    # The chat of r1_reward is JSON inside JSON.
    record = json.loads(text.replace(old, json.dumps(escaped)[1:-1] if name == "r1_reward" else escaped))
    outcome = transform(name, root)([(0, record)])
    reason = "image-outside" if file.startswith("..") else "image-missing"
    assert [r["reason"] for r in outcome.rejected] == [reason]


@pytest.mark.parametrize(
    ("name", "place", "value", "reason"),
    [
        ("rlaif_v", ("rejected",), "A dog 1.", "same-responses"),
        ("rlaif_v", ("rejected",), "  ", "empty-text"),
        ("rlhf_v", ("text",), '{"question": "x"', "bad-json"),
        ("rlhf_v", ("text",), "[]", "wrong-type"),
        ("vlfeedback", ("completions", "annotations", 0), '{"Helpfulness": {"Rating": "N/A"}}', "bad-rating"),
        ("vlfeedback", ("completions", "annotations", 0), '{"Helpfulness": {"Rating": "3.9"}}', "gap-too-small"),
        ("vlfeedback", ("completions", "response"), ["A dog 1."], "missing-field"),
        ("vl_rewardbench", ("human_ranking",), [0], "bad-ranking"),
        ("vl_rewardbench", ("response",), ["one", "two", "three"], "not-pairwise"),
        ("llava_human_preference", ("preference",), 3, "unknown-label"),
        ("llava_critic_113k", ("conversations", 1, "value"), "The better response: [third]", "unknown-label"),
        ("llava_critic_113k", ("conversations", 0, "value"), "Describe the image.", "not-pairwise"),
        ("llava_critic_grpo", ("answer",), "both are bad", "unknown-label"),
        ("r1_reward", ("answer",), ["<answer>1</answer>", "<answer>2</answer>"], "unknown-label"),
        ("omni_preference", ("solution",), "{}", "missing-field"),
        ("multimodal_rewardbench", ("Text",), None, "missing-field"),
        ("multimodal_rewardbench_2", ("response_b_images",), ["absent.jpg"], "image-missing"),
        ("mllm_judge", ("human_answer",), "D", "unknown-label"),
        ("generic", ("rankings",), [1, 2], "bad-ranking"),
        ("spa_vl", ("image",), "http://example.org/a.jpg", "image-remote"),
    ],
)
def test_reason(name: str, place: Place, value: Any, reason: str, root: Path) -> None:
    outcome = transform(name, root)([(0, replaced(GOOD[name](1), place, value))])
    assert [r["reason"] for r in outcome.rejected] == [reason]


def test_videos_are_counted_as_such(root: Path) -> None:
    record = {k: v for k, v in GOOD["mm_rlhf"](1).items() if k != "image"} | {"video": "a.mp4"}
    assert transform("mm_rlhf", root)([(0, record)]).rejected[0]["reason"] == "video"


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("The better response: [second] because", 1),
        ("The better response: [A]", 0),
        ("Two responses are equally good.", "tie"),
        ("8 7\nThe first is fuller.", 0),
        ("My final verdict is tie: [[A=B]]", "tie"),
        ("My final verdict: [[B>>A]]", 1),
    ],
)
def test_llava_critic_verdicts(verdict: str, expected: Preferred) -> None:
    record = replaced(GOOD["llava_critic_113k"](1), ("conversations", 1, "value"), verdict)
    assert [pair.preferred for pair in pairs_of("llava_critic_113k", record)] == [expected]


def test_pointwise_row_becomes_a_score_task(root: Path) -> None:
    record = GOOD["llava_critic_113k"](1)
    record["conversations"] = [
        {"from": "human", "value": "<image>\nText Caption: A dog on grass.\nFrom 0 to 100, how good is it?"},
        {"from": "gpt", "value": "It is fine. Final Score: 85"},
    ]
    outcome = transform("llava_critic_113k", root)([(0, record)])
    row = outcome.rows[0]
    # On the reward's own scale, so that the row needs no option of the reward.
    assert (row.ability, row.ground_truth) == ("critic_score", "8.5")
    assert "from 0 (worst) to 10 (best)" in row.prompt
    assert json.loads(row.meta or "")["score"] == 85
    assert row.responses == ["A dog on grass."]
    assert [list(row_problems(r.nested(), full=True, roots=[root])) for r in outcome.rows] == [[]]


def test_nway_tasks_name_the_best(root: Path) -> None:
    outcome = transform("generic", root, nway="tasks")(enumerate(GOOD["generic"](n) for n in range(8)))
    for row in outcome.rows:
        best = int(row.ground_truth) - 1
        assert (row.responses or [])[best].startswith("A dog")
        assert not list(row_problems(row.nested(), full=True, roots=[root]))
    assert len({row.ground_truth for row in outcome.rows}) > 1


@pytest.mark.parametrize(("ties", "labels"), [("keep", ["tie"]), ("drop", [])])
def test_ties(ties: str, labels: list[str], root: Path) -> None:
    outcome = transform("omni_preference", root, ties=ties)([(0, GOOD["omni_preference"](1))])
    assert [r.ground_truth for r in outcome.rows] == labels
    assert [r["reason"] for r in outcome.rejected] == ([] if labels else ["tie"])
    assert all("\\boxed{tie}" in r.prompt for r in outcome.rows)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_random_record_is_used_or_rejected(name: str, root: Path, data: st.DataObject) -> None:
    record = GOOD[name](1)
    for place in data.draw(st.lists(st.sampled_from(paths_of(record)), min_size=1, max_size=3, unique=True)):
        try:
            record = replaced(record, place, data.draw(JSON))
        except (TypeError, KeyError, IndexError):  # an outer value was replaced before an inner one
            continue
    outcome = transform(name, root)([(0, record)])
    assert outcome.used + len(outcome.rejected) == 1
    assert "unforeseen" not in {r["reason"] for r in outcome.rejected}


def test_a_source_of_ones_own(tmp_path: Path, root: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from data_prep.tasks.pairwise import Image, PreferencePair\n"
        "def pairs(record, options):\n"
        "    yield PreferencePair('mine', (Image(path=record['pic']),), record['q'], ('a', 'b'), record['best'])\n"
    )
    own = load_source(f"{tmp_path / 'mine.py'}:pairs")
    outcome = Transform(Settings("x", image_roots=(str(root),)), own)([(0, {"pic": "1.jpg", "q": "?", "best": 1})])
    assert outcome.rows[0].data_source == "critic/mine"
    with pytest.raises(ValueError, match="no function 'other'"):
        load_source(f"{tmp_path / 'mine.py'}:other")
