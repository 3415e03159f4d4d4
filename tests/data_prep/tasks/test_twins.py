"""Twins: the same question and responses under the images of another pair, labelled as a tie."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_prep.checks.rows import check_parquet
from data_prep.convert import convert
from data_prep.settings import Settings
from data_prep.sources.registry import load_source
from data_prep.tasks.pairwise import Image, PreferencePair
from data_prep.tasks.twins import REMEMBERED, Twins, lends_images
from data_prep.transform import Transform
from reward_fns.preference import compute_score
from tests.data_prep.made_images import make_image
from tests.data_prep.made_records import GOOD
from tests.data_prep.made_sets import ROWS, digest, settings, source_file


def pair(
    *images: int, question: str = "What is it?", responses: tuple[str, str] = ("A dog.", "A cat."), **changes: Any
) -> PreferencePair:
    known = {"preferred": 0, **changes}
    return PreferencePair("made", tuple(Image(make_image(n)) for n in images), question, responses, **known)


@pytest.mark.parametrize(
    ("other", "fits"),
    [
        (pair(2, question="How many?"), True),
        (pair(1, question="How many?"), False),  # the same image
        (pair(2, 3, question="How many?"), False),  # another number of images
        (pair(question="How many?"), False),
        (pair(2, responses=("A cow.", "A dog.")), True),  # the same question: a cow is neither
        (pair(2, responses=("A cow.", "a  CAT.")), True),
        (pair(2, responses=("A cow.", "a  CAT."), preferred=1), False),  # one of the responses is right there
        (pair(2, question="what is  IT?", responses=("A dog.", "A cow.")), False),
        (pair(2, responses=("A cow.", "A goat."), preferred="tie"), False),  # which is right is not known
        (pair(2, question="How many?", response_images=(1, 0)), False),  # not an image of the question
    ],
)
def test_whose_images_fit(other: PreferencePair, fits: bool) -> None:
    assert lends_images(other, pair(1)) == fits


def test_the_twin_has_the_images_of_the_latest_pair_of_its_split_that_fits() -> None:
    twins = Twins()
    sizes = [(1, 1)], [(2, 2)], [(3, 3)]
    assert twins.of(pair(1, question="a"), sizes[0], "train") is None
    assert twins.of(pair(2, question="b"), sizes[1], "val") is None
    found = twins.of(pair(3, question="c", meta={"id": 7}), sizes[2], "train")
    assert found is not None
    twin, size = found
    assert (size, twin.images[0].data, twin.question) == (sizes[0], make_image(1), "c")
    assert (twin.source, twin.preferred, twin.responses) == ("made_twin", "tie", ("A dog.", "A cat."))
    assert twin.meta == {"id": 7, "twin_of": pair(3, question="c").pair_id}
    for n in range(REMEMBERED):
        twins.of(pair(4, question=f"d{n}"), sizes[0], "train")
    assert twins.of(pair(4, question="e"), sizes[0], "train") is None, "only pairs shortly before are remembered"
    for without in (pair(question="f"), pair(5, question="g", response_images=(1, 0))):
        assert twins.of(without, [], "train") is None


def table(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("orders", ["balanced", "both"])
def test_every_pair_is_followed_by_its_twin(orders: Any, tmp_path: Path) -> None:
    manifest = convert(
        [str(source_file(tmp_path))], tmp_path / "out", settings(val_share=0.3, twins=True, orders=orders)
    )
    rows = table(tmp_path / "out")
    pairs = {r["extra_info"]["pair_id"]: r for r in rows if r["data_source"] == "critic/rlaif_v"}
    twins = [r for r in rows if r["data_source"] == "critic/rlaif_v_twin"]
    assert len(pairs) == ROWS
    times = 2 if orders == "both" else 1
    assert len(twins) == times * (ROWS - manifest["dropped_pairs"]["twin-without-image"]) > 0
    assert manifest["records"] == {"in": ROWS, "used": ROWS, "rejected": 0}
    images_of = {row["images"][0]["bytes"]: row["extra_info"]["split"] for row in pairs.values()}
    for twin in twins:
        info = twin["extra_info"]
        own = pairs[json.loads(info["meta"])["twin_of"]]
        assert info["question"] == own["extra_info"]["question"]
        assert {info["response_1"], info["response_2"]} == {own["extra_info"][f"response_{n}"] for n in (1, 2)}
        assert twin["images"][0]["bytes"] != own["images"][0]["bytes"]
        assert images_of[twin["images"][0]["bytes"]] == info["split"] == own["extra_info"]["split"]
        assert (twin["reward_model"]["ground_truth"], info["label_flipped"]) == ("tie", False)
        assert "\\boxed{tie}" in twin["prompt"][0]["content"]
    assert check_parquet(tmp_path / "out").ok


def test_twins_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    source = str(source_file(tmp_path))
    convert([source], tmp_path / "one", settings(twins=True))
    convert([source], tmp_path / "two", settings(twins=True), workers=2)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_a_pair_that_is_too_long_is_rejected_as_such() -> None:
    """Its missing twin is not the reason. A twin that is too long is left out of a record that is used."""

    class Meter:
        def measure(self, prompts: list[str], sizes: list[list[tuple[int, int]]]) -> list[int]:
            return [len(prompt) if len(own) == 1 else 0 for prompt, own in zip(prompts, sizes, strict=True)]

    records = [{**GOOD["rlaif_v"](n), "question": "What? " * 1000 * (n == 0) + f"What {n}?"} for n in range(3)]
    limits = Settings("rlaif_v", twins=True, model="m", max_prompt_tokens=3000)
    transform = Transform(limits, load_source("rlaif_v"), meter=Meter())  # type: ignore[arg-type]
    outcome = transform(enumerate(records))
    assert [r["reason"] for r in outcome.rejected] == ["overlong"]
    assert [row.data_source for row in outcome.rows] == ["critic/rlaif_v", "critic/rlaif_v_twin"] * 2


@pytest.mark.parametrize("kind", ["duplicate", "contradictory"])
def test_a_twin_goes_with_its_pair(kind: str, tmp_path: Path) -> None:
    good = [GOOD["rlaif_v"](n) for n in range(6)]
    swapped = {**good[2], "chosen": good[2]["rejected"], "rejected": good[2]["chosen"]}
    records = [*good, good[2] if kind == "duplicate" else swapped]
    given = settings(twins=True, val_share=0.0, unit_rows=3)
    manifest = convert([str(source_file(tmp_path, records))], tmp_path / "out", given)
    lost = 1 if kind == "duplicate" else 2
    assert manifest["rejected"] == {kind: lost}
    rows = table(tmp_path / "out")
    pairs = {row["extra_info"]["pair_id"] for row in rows if row["data_source"] == "critic/rlaif_v"}
    twins = [json.loads(row["extra_info"]["meta"])["twin_of"] for row in rows if "twin" in row["data_source"]]
    assert len(pairs) == 7 - lost
    assert len(twins) == len(set(twins)) == 7 - lost - manifest["dropped_pairs"]["twin-without-image"]
    assert set(twins) <= pairs


def test_what_a_twin_pays() -> None:
    said = [f"<think>The image shows neither.</think>\\boxed{{{choice}}}" for choice in ("tie", "1", "2")]
    assert [compute_score("critic/made_twin", text, "tie")["score"] for text in said] == [1.0, 0.1, 0.1]


@pytest.mark.parametrize("changes", [{"ties": "drop"}, {"template": "compact"}])
def test_settings_without_ties_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--twins needs --ties keep"):
        Settings("rlaif_v", twins=True, **changes)
