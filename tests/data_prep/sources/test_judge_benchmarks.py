"""EditReward-Bench, VideoRewardBench and the batches of MLLM-as-a-Judge, as their authors shape them."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_prep.convert import convert
from data_prep.reading.video import frames_of
from data_prep.settings import Settings
from data_prep.sources.record import Options
from data_prep.sources.registry import load_source
from data_prep.sources.reject import Reject
from data_prep.tasks.nway import RankedResponses
from tests.data_prep.made_images import make_image
from tests.data_prep.made_records import GOOD, pairs_of
from tests.data_prep.reading.test_video import made_video


@pytest.mark.parametrize(
    ("ranking", "compared", "better"),
    [
        ("A>B", "AvsB", 0),
        ("B>A", "AvsB", 1),
        ("A<B", "AvsB", 1),
        ("A=B", "AvsB", "tie"),
        ("A=B=Good", "AvsB", "tie"),
        ("A=B=Bad", None, "tie"),
        (" A > B ", None, 0),
        ("A>C", "AvsC", 0),
        ("C>B", "BvsC", 1),
        ("D>B", "BvsD", 1),
        ("A>B", "AvsC", None),
        ("C>D", None, None),
        ("A>A", "AvsA", None),
        ("A>B>C", "AvsB", None),
        ("left", "AvsB", None),
        (1, "AvsB", None),
        ("A>B" * 100_000, "AvsB", None),
        ("A>B", {"a": 1}, None),
    ],
)
def test_the_ranking_of_two_edits(ranking: Any, compared: Any, better: Any) -> None:
    record = {**GOOD["editreward_bench"](1), "ranking": ranking, "comparison_type": compared}
    if better is None:
        with pytest.raises(Reject) as problem:
            pairs_of("editreward_bench", record)
        assert problem.value.reason == "unknown-label"
        assert len(problem.value.detail) < 200
    else:
        assert [pair.preferred for pair in pairs_of("editreward_bench", record)] == [better]


@pytest.mark.parametrize(
    ("identifier", "group"), [("7f3a_AvsB", "3pair/7f3a"), ("0123456789ab", "3pair/0123456789"), (12, "3pair/12")]
)
def test_edits_of_one_group(identifier: Any, group: str) -> None:
    (pair,) = pairs_of("editreward_bench", {**GOOD["editreward_bench"](1), "id": identifier})
    assert (pair.meta["group"], pair.meta["category"], pair.meta["id"]) == (group, "3pair", identifier)
    assert [image.data for image in pair.images] == [make_image(n) for n in (3, 1, 2)]
    assert (pair.response_images, pair.responses) == ((1, 1), ("<image>", "<image>"))


@pytest.mark.parametrize(
    ("columns", "category"),
    [
        ({"video": "a.mp4", "question": "What happens?", "category": "Long-form Perception"}, "long_form_perception"),
        ({"video_path": "a.mp4", "prompt": "What happens?", "dimension": "Safety"}, "safety"),
        ({"video": ["a.mp4"], "question": "What happens?", "subset": "short-form_perception"}, "short_form_perception"),
        ({"video": "a.mp4", "question": "<video>\nWhat happens?"}, None),
    ],
)
def test_videos(columns: dict[str, Any], category: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(made_video(30))
    record = {**columns, "chosen": "It darkens.", "rejected": "Nothing."}
    (tmp_path / "in.jsonl").write_text(json.dumps(record))
    files, roots = [str(tmp_path / "in.jsonl")], (str(tmp_path),)
    without = convert(files, tmp_path / "without", Settings("videorewardbench", image_roots=roots))
    assert without["rejected"] == {"video": 1}
    convert(files, tmp_path / "out", Settings("videorewardbench", image_roots=roots, frames=4))
    (row,) = pq.read_table(tmp_path / "out" / "train-00000.parquet").to_pylist()
    assert [image["bytes"] for image in row["images"]] == frames_of(made_video(30), 4)
    assert "What happens?" in row["extra_info"]["question"]
    assert json.loads(row["extra_info"]["meta"] or "{}").get("category") == category


def batch(**changes: Any) -> dict[str, Any]:
    names = ("llava", "cogvlm", "gpt4", "gemini")
    return {
        "id": 200,
        "instruction": "Please analyse this figure in detail and answer: What fruit is it?",
        "image_path": "image/200.jpg",
        "original_dataset": "coco",
        "answers": [{"name": name, "answer": f" By {name}."} for name in names],
        "human_answer": "CDAB",
        **changes,
    }


def test_a_batch_is_ranked_by_its_letters() -> None:
    (found,) = load_source("mllm_judge").convert(batch(), Options())
    assert isinstance(found, RankedResponses)
    assert found.responses == ("By llava.", "By cogvlm.", "By gpt4.", "By gemini.")
    assert found.ranks == (3, 4, 1, 2)
    assert (found.meta["category"], found.images[0].path) == ("coco", "image/200.jpg")
    assert [pair.preferred for pair in found.pairs()] == [0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"human_answer": "CDA"}, "bad-ranking"),
        ({"human_answer": "CDAA"}, "bad-ranking"),
        ({"human_answer": "CDAE"}, "bad-ranking"),
        ({"human_answer": "C" * 100_000}, "bad-ranking"),
        ({"human_answer": 4}, "bad-ranking"),
        ({"human_answer": None}, "bad-ranking"),
        ({"answers": [{"answer": "a"}], "human_answer": "A"}, "bad-ranking"),
        ({"answers": [{"answer": "a"}, {"answer": "a"}], "human_answer": "AB"}, "same-responses"),
        ({"answers": "ABCD"}, "wrong-type"),
        ({"answers": [{"answer": "a"}, {"name": "b"}], "human_answer": "AB"}, "missing-field"),
    ],
)
def test_a_bad_batch_is_rejected_by_name(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Reject) as problem:
        list(load_source("mllm_judge").convert(batch(**changes), Options()))
    assert problem.value.reason == reason


def test_pairs_and_batches_in_one_folder(tmp_path: Path) -> None:
    """The labels of pairs keep their meaning beside the letters of batches."""
    (tmp_path / "1.jpg").write_bytes(make_image(1))
    records = [GOOD["mllm_judge"](1), batch(image_path="1.jpg")]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
    for nway, rows in (("pairs", 7), ("rankings", 2)):
        chosen = Settings("mllm_judge", image_roots=(str(tmp_path),), nway=nway)  # type: ignore[arg-type]
        manifest = convert([str(tmp_path / "in.jsonl")], tmp_path / nway, chosen)
        assert (manifest["rows"], manifest["rejected"]) == ({"train": rows}, {})
