"""EditReward-Bench, VideoRewardBench and MLLM-as-a-Judge against a judge with known verdicts: their own metrics."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from recipe.critic_r1.judging.official_metrics import official_metrics
from tests.data_prep.made_images import make_image
from tests.data_prep.made_records import GOOD
from tests.data_prep.reading.test_video import made_video
from tests.judging.fake_server import FakeServer, answer, say
from tests.judging.test_benchmarks import run


def first(attempt: int, body: dict[str, Any]) -> dict[str, Any]:
    """A judge that always takes the first place."""
    return answer(body, say(1))


def dogs(attempt: int, body: dict[str, Any]) -> dict[str, Any]:
    """A judge that takes the dog, whichever place it is in."""
    text = "".join(part.get("text", "") for part in body["messages"][0]["content"])
    return answer(body, say(1 if text.index("A dog") < text.index("A cat") else 2))


def measured(out: Path) -> dict[str, float]:
    metrics = json.loads((out / "judge.json").read_text())["metrics"]
    return {k.removeprefix("official/"): v["value"] for k, v in metrics.items() if k.startswith("official/")}


def test_edits_have_a_group_accuracy_for_each_number_of_edits(tmp_path: Path) -> None:
    """A group of three edits is right in neither order, because a judge by place is right in one order of each pair."""
    edits = [
        {**GOOD["editreward_bench"](n), "id": f"g_{compared}", "comparison_type": compared, "ranking": ranking}
        for n, (compared, ranking) in enumerate((("AvsB", "A>B"), ("AvsC", "A>C"), ("BvsC", "C>B")))
    ]
    edits += [
        {**GOOD["editreward_bench"](n + 3), "dataset": "2pair", "id": f"h{n}_AvsB", "comparison_type": "AvsB",
         "ranking": ranking}
        for n, ranking in enumerate(("A>B", "A=B"))
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(edits), tmp_path / "in.parquet")
    with FakeServer(first) as server:
        result = run("editreward_bench", "--input", tmp_path / "in.parquet", "--model", "m", "--base-url", server.url,
                     "--out", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(server.bodies) == 10
    assert measured(tmp_path / "out") == {
        "overall": pytest.approx(4 / 10),
        "without_ties": 0.5,
        "macro": pytest.approx((1 / 4 + 1 / 2) / 2),
        "category/2pair": 0.25,
        "category/3pair": 0.5,
        "acc_plus": pytest.approx(1 / 6),
        "acc_plus/2pair": 0.25,
        "acc_plus/3pair": 0.0,
    }


@pytest.mark.parametrize("suite", [False, True])
def test_videos_are_judged_by_their_frames(suite: bool, tmp_path: Path) -> None:
    names = ("Long-form Perception", "Short-form Perception", "Knowledge", "Reasoning", "Safety")
    for n in range(5):
        (tmp_path / f"{n}.mp4").write_bytes(made_video(10 + n))
    records = [
        {"video": f"{n}.mp4", "question": f"What is in video {n}?", "category": name, "chosen": f"A dog {n}.",
         "rejected": f"A cat {n}."}
        for n, name in enumerate(names)
    ]  # fmt: skip
    records[4] |= {"chosen": "A cat 4.", "rejected": "A dog 4."}
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
    entry = {"input": str(tmp_path / "in.jsonl"), "image_root": str(tmp_path), "frames": 3}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"benchmarks": {"videorewardbench": entry}}))
    command = (
        [tmp_path / "suite.yaml"]
        if suite
        else ["videorewardbench", "--input", entry["input"], "--image-root", tmp_path, "--frames", 3]
    )
    with FakeServer(dogs) as server:
        result = run(*command, "--model", "m", "--base-url", server.url, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    shown = [sum(part["type"] == "image_url" for part in body["messages"][0]["content"]) for body in server.bodies]
    assert shown == [3] * 10
    right = {
        f"category/{name}": 1.0 for name in ("long_form_perception", "short_form_perception", "knowledge", "reasoning")
    }
    expected = {"overall": pytest.approx(0.8), "macro": pytest.approx(0.8), **right, "category/safety": 0.0}
    assert measured(tmp_path / "out" / ("videorewardbench" if suite else "")) == expected


def test_frames_without_a_benchmark_are_refused(tmp_path: Path) -> None:
    result = run(
        tmp_path, "--frames", 3, "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--out", tmp_path / "o"
    )
    assert (result.exit_code, "--frames need the name of a benchmark" in " ".join(result.output.split())) == (2, True)


def test_ties_count_in_one_of_two_figures(tmp_path: Path) -> None:
    labels = (("A", "coco"), ("C", "coco"), ("B", "math"), ("A", "math"))
    records = [
        {**GOOD["mllm_judge"](n), "human_answer": label, "original_dataset": kind}
        for n, (label, kind) in enumerate(labels)
    ]
    for n in range(4):
        (tmp_path / f"{n}.jpg").write_bytes(make_image(n))
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
    with FakeServer(dogs) as server:
        result = run("mllm_judge", "--input", tmp_path / "in.jsonl", "--image-root", tmp_path, "--model", "m",
                     "--base-url", server.url, "--out", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert measured(tmp_path / "out") == {
        "overall": 0.5,
        "without_ties": pytest.approx(2 / 3),
        "macro": 0.5,
        "category/coco": 0.5,
        "category/math": 0.5,
    }


def test_a_set_without_ties_has_one_figure(said: Any) -> None:
    assert "without_ties" not in official_metrics([said("a", 0, True), said("a", 1, False)])
