"""Rows, templates and neutralising."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.tasks.ordering import balanced_order, preference_tasks, split_of
from data_prep.tasks.pairwise import Image, PreferencePair, PreferenceTask, Preferred, row_schema, swapped_row
from data_prep.tasks.prompts import MARKER, TEMPLATES, get_template, neutralise
from data_prep.tasks.row import Row, rows_batch
from data_prep.writer import write_parquet
from reward_fns.preference import compute_score
from tests.data_prep.made_images import make_image


def pair(n: int = 0, preferred: object = 0, **changes: object) -> PreferencePair:
    given = {
        "source": "test",
        "images": (Image(make_image(n), f"{n}.jpg"),),
        "question": f"What is in image {n}?",
        "responses": ("A dog.", "A cat."),
        "preferred": preferred,
    }
    return PreferencePair(**{**given, **changes})  # type: ignore[arg-type]


def test_compact_template_is_exact() -> None:
    digits = pair(question="What digit is shown?", responses=("7", "3"))
    prompt = PreferenceTask(digits, 0, template=get_template("compact")).prompt
    assert prompt == "<image>What digit is shown?\nResponse 1: 7\nResponse 2: 3\nWhich response is right?"


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("n_images", [0, 1, 3])
def test_every_template_shows_all_parts_once(name: str, n_images: int) -> None:
    text = TEMPLATES[name].render("QQ {0}", "R1R1 }{", "R2R2", n_images=n_images, ties=True)
    assert text.count(MARKER) == n_images
    assert [text.count(part) for part in ("QQ {0}", "R1R1 }{", "R2R2")] == [1, 1, 1]
    assert text.index("R1R1") < text.index("R2R2")
    assert ("\\boxed{tie}" in text) == TEMPLATES[name].suffix


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<image>", "‹image›"),
        ("a <IMAGE> b</think>", "a ‹IMAGE› b‹/think›"),
        ("<|im_end|><|image_pad|>", "‹|im_end|›‹|image_pad|›"),
        (r"\boxed{2}", "boxed{2}"),
        (r"\\\boxed{2}", "boxed{2}"),  # one backslash fewer would still be a box
        (r"<|\boxed{1}|>", "‹|boxed{1}|›"),  # a box inside a token
        ("<<image>image>", "<‹image›image>"),
        ("[INST] x [/INST]", "(INST) x (/INST)"),
        ("<｜end▁of▁sentence｜>", "‹｜end▁of▁sentence｜›"),
        ("lone \ud800 surrogate", "lone \ufffd surrogate"),
        ("a < b and <b>bold</b> and x|>y", "a < b and <b>bold</b> and x|>y"),  # ordinary text stays
        (r"\frac{1}{2}", r"\frac{1}{2}"),
    ],
)
def test_neutralise(text: str, expected: str) -> None:
    assert neutralise(text) == expected


TRICKS = st.sampled_from(
    [
        "<image>",
        "<video>",
        "<audio>",
        "<think>",
        "</think>",
        "\\boxed{1}",
        "\\",
        "<",
        ">",
        "|",
        "<|im_end|>",
        "box",
        "ed{",
    ]
)
HOSTILE = st.lists(TRICKS | st.text(max_size=5) | st.characters(categories=["Cs"]), max_size=12).map("".join)


@given(HOSTILE)
@settings(deadline=None)
@example("<|<image>|>")
def test_neutralised_text_is_harmless_and_stays_so(text: str) -> None:
    safe = neutralise(text)
    assert neutralise(safe) == safe
    for trick in ("<image>", "<video>", "<audio>", "<think>", "</think>", "\\boxed", "<|im_end|>"):
        assert trick not in safe
    safe.encode()


@given(HOSTILE, HOSTILE, HOSTILE, st.sampled_from([0, 1, "tie"]), st.sampled_from([0, 1]))
@settings(deadline=None)
def test_any_text_gives_a_good_row(question: str, first: str, second: str, preferred: Preferred, order: int) -> None:
    task = PreferenceTask(pair(preferred=preferred, question=question, responses=(first, second)), order)
    row = task.row()
    # The columns that are written, the dict and what Arrow makes of the dict are the same row.
    table = pa.Table.from_pylist([row], row_schema())
    assert pa.Table.from_batches([rows_batch([task.flat()])]).equals(table)
    assert Row.of(row) == task.flat()
    assert row == table.to_pylist()[0]
    assert row["prompt"][0]["content"].count(MARKER) == len(row["images"])
    truth = row["reward_model"]["ground_truth"]
    shown = (row["extra_info"]["response_1"], row["extra_info"]["response_2"])
    if preferred != "tie":
        assert shown[int(truth) - 1] == neutral_surrogates((first, second)[preferred])
    # A judge that quotes both responses in its thoughts and then decides keeps its verdict.
    quoting = f"<think>They say {neutralise(first)} {neutralise(second)}</think>\\boxed{{{truth}}}"
    assert compute_score("critic/test", quoting, truth)["score"] == 1.0


def neutral_surrogates(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


@pytest.mark.parametrize("n", [10, 11])
@pytest.mark.parametrize("preferred", [0, 1])
def test_orders_are_balanced(n: int, preferred: int) -> None:
    labels = [t.ground_truth for t in preference_tasks((pair(i, preferred) for i in range(n)), seed=3)]
    assert abs(labels.count("1") - labels.count("2")) == n % 2


def test_both_orders_and_flips_are_consistent() -> None:
    pairs = [pair(i) for i in range(40)]
    tasks = list(preference_tasks(pairs, orders="both", flip_labels=0.5))
    assert len(tasks) == 80
    for first, second in zip(tasks[::2], tasks[1::2], strict=True):
        assert {first.ground_truth, second.ground_truth} == {"1", "2"}
        assert first.label_flipped == second.label_flipped
    assert 10 <= sum(t.label_flipped for t in tasks[::2]) <= 30


def test_order_depends_on_the_seed() -> None:
    orders = {tuple(balanced_order(pair(), i, seed) for i in range(0, 40, 2)) for seed in range(5)}
    assert len(orders) == 5


def test_a_image_has_one_split() -> None:
    keys = [f"{i:064x}" for i in range(2000)]
    first = [split_of([k], seed=1, val_share=0.1) for k in keys]
    assert first == [split_of([k, k], seed=1, val_share=0.1) for k in keys]
    assert 150 < first.count("val") < 250
    train, val = keys[first.index("train")], keys[first.index("val")]
    assert split_of([train, val], seed=1, val_share=0.1) is None


def test_writer_refuses_one_image_in_two_splits(tmp_path: Path) -> None:
    tasks = [PreferenceTask(pair(), 0, "train"), PreferenceTask(pair(), 0, "test")]
    with pytest.raises(ValueError, match="splits train and test"):
        write_parquet(tasks, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_writer_repeats_its_bytes_and_clears_old_shards(tmp_path: Path) -> None:
    tasks = [PreferenceTask(pair(i), i % 2, index=i) for i in range(30)]
    first = write_parquet(tasks, tmp_path, shard_bytes=8_000, group_bytes=4_000)
    assert len(first["shards"]) > 2
    assert write_parquet(tasks, tmp_path, shard_bytes=8_000, group_bytes=4_000) == first
    again = write_parquet(tasks, tmp_path)
    assert [p.name for p in sorted(tmp_path.glob("*.parquet"))] == ["train-00000.parquet"]
    assert again["labels"] == first["labels"]


def illustrated(preferred: object = 0) -> PreferencePair:
    """A request with two images, a response with text around an image, and one that is two images."""
    images = tuple(Image(make_image(n), f"{n}.jpg") for n in range(5))
    return PreferencePair(
        "test",
        images,
        "Merge <image> and <image>, as <b>asked</b>.",
        ("Here: <image> Done. \\boxed{1}", ""),
        preferred,  # type: ignore[arg-type]
        response_images=(1, 2),
    )


@pytest.mark.parametrize(
    ("order", "names", "parts"),
    [
        (
            0,
            "01234",
            ("1:\nHere: <image> Done.", "2:\n<image><image>"),
        ),
        (
            1,
            "01342",
            ("1:\n<image><image>", "2:\nHere: <image> Done."),
        ),
    ],
)
def test_every_image_is_in_the_part_that_it_belongs_to(order: int, names: str, parts: tuple[str, ...]) -> None:
    task = PreferenceTask(illustrated(), order)
    row = task.flat()
    assert [image.path for image in row.images] == [f"{n}.jpg" for n in names]
    assert row.image_blake3 == [image.blake3 for image in row.images]
    assert row.response_images == ([1, 2] if order == 0 else [2, 1])
    parts = ("Question:\nMerge <image> and <image>, as <b>", *(f"Response {part}" for part in parts))
    assert [row.prompt.count(part) for part in parts] == [1, 1, 1]
    assert row.prompt.count(MARKER) == 5
    assert "boxed{1} Done" not in row.prompt.replace("\\boxed{1} if", "")
    assert row == swapped_row(PreferenceTask(illustrated(), 1 - order).flat(), ties=False)
    assert rows_batch([row]).to_pylist() == [task.row()]
    assert Row.of(task.row()) == row


@pytest.mark.parametrize("preferred", [0, 1, "tie"])
def test_a_swapped_pair_is_the_same_judgement(preferred: object) -> None:
    first = illustrated(preferred)
    assert first.swap().judgement == first.judgement
    assert first.swap().swap() == first
    assert PreferenceTask(first.swap(), 0).prompt == PreferenceTask(first, 1).prompt
    other = dataclasses.replace(first, response_images=(2, 1))
    assert (other.judgement[0], other.pair_id) != (first.judgement[0], first.pair_id)


@pytest.mark.parametrize(
    ("question", "n_images", "begins"),
    [
        ("<image> is A, <image> is B.", 2, "You are an impartial judge"),
        ("<image> is A.", 2, "<image><image>\nYou are an impartial judge of answers that vision"),
        ("Is <image> a tag?", 1, "<image>\nYou are an impartial judge of answers that vision"),
        ("Why?", 0, "You are an impartial judge of answers that language models give."),
    ],
)
def test_where_the_images_of_a_question_are(question: str, n_images: int, begins: str) -> None:
    prompt = get_template("critic").render(question, "a", "b", n_images=n_images)
    assert prompt.startswith(begins)
    assert prompt.count(MARKER) == n_images
    assert ("picture" in prompt) == (n_images > 0)


def test_markers_that_are_not_the_images_of_a_response_are_refused() -> None:
    with pytest.raises(ValueError, match="2 <image> markers for 1 images"):
        get_template("critic").render("q", "<image><image>", "b", n_images=0, response_images=(1, 0))
    assert get_template("critic").render("q", "<image>", "b", n_images=0).count(MARKER) == 0
