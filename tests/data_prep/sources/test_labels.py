"""The meaning of a label column follows from all of its values."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.convert import convert
from data_prep.reading.inputs import InputError
from data_prep.settings import Settings
from data_prep.sources.labels import Labels, RawLabel, Survey, parse_label_values
from data_prep.sources.reject import Reject
from tests.data_prep.made_images import make_image

A, B, TIE = 0, 1, "tie"


def labels_of(values: list[Any], names: tuple[str, str] | None = None, base: int | None = None, **given: str) -> Labels:
    survey = Survey(parse_label_values(given), base)
    for value in values:
        survey.add(RawLabel(value, names))
    return survey.labels()


@pytest.mark.parametrize(
    ("values", "meanings"),
    [
        ([0, 1], [A, B]),
        ([1, 2], [A, B]),
        ([2], [B]),
        (["0", "1"], [A, B]),
        (["1", "2", "tie"], [A, B, TIE]),
        ([0.0, 1.0], [A, B]),
        (["1.0", "2.0"], [A, B]),
        (["[[A]]", "[[B]]", "[[A=B]]"], [A, B, TIE]),
        (["A>B", "B>>A"], [A, B]),
        (["model_a", "model_b", "tie", "bothbad", "tie (bothbad)", "both_bad"], [A, B, TIE, TIE, TIE, TIE]),
        (["Left", "RIGHT"], [A, B]),
        (["first", "second", "equal"], [A, B, TIE]),
        (["The first response", "Response B"], [A, B]),
        (["model_0", "model_1"], [A, B]),
        (["response_1", "response_2"], [A, B]),
        (["\\boxed{1}", "\\boxed{2}"], [A, B]),
        (["<answer>1</answer>", "<answer>2</answer>"], [A, B]),
    ],
)
def test_understood_from_all_values(values: list[Any], meanings: list[Any]) -> None:
    labels = labels_of(values)
    assert [labels.read(value) for value in values] == meanings


@pytest.mark.parametrize(
    "values",
    [[0, 1, 2], [0, 2], [1], [0], ["1", "tie"], [True, False], ["true"], [-1, 1], [0, 0.5, 1], [1, True]],
    ids=repr,
)
def test_more_than_one_meaning_is_refused_with_the_values_and_the_option(values: list[Any]) -> None:
    with pytest.raises(InputError, match="--label-values") as error:
        labels_of(values)
    assert all(str(value).lower() in str(error.value) for value in values)


@pytest.mark.parametrize(
    ("values", "given", "meanings"),
    [
        ([True, False], {"true": "first", "False": "second"}, [A, B]),
        ([0, 1, 2], {"0": "tie", "1": "first", "2": "second"}, [TIE, A, B]),
        (["A", "B", "C"], {"C": "tie"}, [A, B, TIE]),
        ([0, 1], {"0": "second", "1": "first"}, [B, A]),
        ([-1, 1, 2], {"-1": "tie"}, [TIE, A, B]),
    ],
)
def test_the_option_decides(values: list[Any], given: dict[str, str], meanings: list[Any]) -> None:
    labels = labels_of(values, None, None, **given)
    assert [labels.read(value) for value in values] == meanings


@pytest.mark.parametrize(
    ("values", "names", "meanings"),
    [
        ([1], ("response_1", "response_2"), [A]),
        ([1], ("answer_0", "answer_1"), [B]),
        ([0, 1], ("response_1", "response_2"), [A, B]),  # an index, whatever the columns are called
        (["gpt4", "llava"], ("gpt4", "llava"), [A, B]),
    ],
)
def test_the_columns_names_help(values: list[Any], names: tuple[str, str], meanings: list[Any]) -> None:
    labels = labels_of(values, names)
    assert [labels.read(value) for value in values] == meanings


def test_a_card_that_says_1_and_2_is_not_believed_against_the_data() -> None:
    assert labels_of([1], base=1).read(1) == A
    with pytest.raises(InputError, match="more than one way"):
        labels_of([0, 1], base=1)
    stray = labels_of([0, 1, 2], base=1)
    with pytest.raises(Reject, match="'0'"):
        stray.read(0)


@pytest.mark.parametrize("value", ["banana", None, [], {}, float("nan"), 7, ""])
def test_a_stray_value_costs_its_row(value: Any) -> None:
    labels = labels_of([1, 2, value])
    assert labels.read(1) == A
    with pytest.raises(Reject) as problem:
        labels.read(value)
    assert problem.value.reason == "unknown-label"


def test_skip_and_wrong_meanings() -> None:
    with pytest.raises(Reject) as problem:
        labels_of(["A", "bad"], bad="skip").read("bad")
    assert problem.value.reason == "skipped-label"
    with pytest.raises(ValueError, match="first, second, tie, skip"):
        parse_label_values({"0": "left"})


def rows(labels: list[Any]) -> list[dict[str, Any]]:
    return [
        {"prompt": f"q{n}?", "answer_a": f"a{n}", "answer_b": f"b{n}", "label": label, "image": "0.jpg"}
        for n, label in enumerate(labels)
    ]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_whole_set_is_read_alike_in_every_unit(kind: str, workers: int, tmp_path: Path) -> None:
    """The first units hold ones only, and only the last row shows what they mean."""
    (tmp_path / "0.jpg").write_bytes(make_image(0))
    found = rows([1] * 9 + [0])
    path = tmp_path / f"in.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(found), path, row_group_size=2)
    else:
        path.write_text("\n".join(map(json.dumps, found)))
    settings = Settings("generic", unit_rows=2, orders="as_is")
    manifest = convert([str(path)], tmp_path / "out", settings, workers=workers)
    assert manifest["labels"] == {"train critic/generic": {"1": 1, "2": 9}}
    assert manifest["label_values"]["base"] == 0


def test_a_refused_set_leaves_the_folder_free(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(make_image(0))
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows([True, False]))))
    with pytest.raises(InputError, match=r"false \(1 times\), true \(1 times\)"):
        convert([str(tmp_path / "in.jsonl")], tmp_path / "out", Settings("generic"))
    given = Settings("generic", label_values={"true": "first", "false": "second"}, orders="as_is")
    manifest = convert([str(tmp_path / "in.jsonl")], tmp_path / "out", given)
    assert manifest["labels"] == {"train critic/generic": {"1": 1, "2": 1}}
