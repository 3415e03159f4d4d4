"""`judge NAME` on the benchmarks' own files, and what a judge with a habit gets on VL-RewardBench."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from data_prep.tasks.ordering import preference_tasks
from recipe.critic_r1.cli.judge import register
from recipe.critic_r1.judging.benchmarks import BENCHMARKS, benchmark_name
from recipe.critic_r1.judging.generation import Sampling
from recipe.critic_r1.judging.metrics import pairwise_metrics
from recipe.critic_r1.judging.official_metrics import official_metrics
from recipe.critic_r1.judging.pairwise import judge, task_from_row
from tests.data_prep.made_images import make_image
from tests.data_prep.made_records import GOOD, pairs_of
from tests.judging.fake_server import FakeServer, answer

APP = typer.Typer()
register(APP)

PAIRS = 8


def records(name: str) -> list[dict[str, Any]]:
    """Pairs of a dog, which is right, and a cat; ids of several groups for each benchmark, one of them nought."""
    made = [GOOD[name](n) for n in range(PAIRS)]
    for n, record in enumerate(made):
        if name == "multimodal_rewardbench":
            record |= {"Category": "safety" if n < 4 else "vqa", "ID": f"pairs_{n}" if n % 2 else f"hate_{n}"}
        if name == "vl_rewardbench":
            # In the first two, which are of another group, the cat is right.
            record |= {"id": f"mathverse_{n}", "human_ranking": [1, 0]} if n < 2 else {"human_ranking": [0, 1]}
    return made


def publish(name: str, folder: Path) -> Path:
    """The benchmark's file, and its images where they are not in it."""
    (folder / "mcq").mkdir()
    for n in range(PAIRS):
        for path in (folder / f"{n}.jpg", folder / "mcq" / f"{n}.jpg"):
            path.write_bytes(make_image(n))
    if name == "vl_rewardbench":
        pq.write_table(pa.Table.from_pylist(records(name)), folder / "in.parquet")
        return folder / "in.parquet"
    lines = [json.dumps(record) for record in records(name)]
    path = folder / ("in.json" if name == "multimodal_rewardbench" else "in.jsonl")
    path.write_text(f"[{','.join(lines)}]" if path.suffix == ".json" else "\n".join(lines))
    return path


def likes_dogs(attempt: int, body: dict[str, Any]) -> dict[str, Any]:
    """A critic that takes the dog, except in pair 3 when the dog stands second."""
    text = "".join(part.get("text", "") for part in body["messages"][0]["content"])
    first = text.index("A dog") < text.index("A cat")
    return answer(body, f"<think>Looked.</think>\\boxed{{{1 if first or 'A dog 3' in text else 2}}}")


def run(*words: object) -> Any:
    return CliRunner().invoke(APP, ["judge", *map(str, words)])


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("vl_rewardbench", {"category/hallucination": 11 / 12, "category/reasoning": 0.0, "overall": 11 / 16}),
        # Prompts of two pairs each: the second has a wrong one in one of two orders.
        ("mm_rlhf_rewardbench", {"overall": 15 / 16, "acc_plus": 7 / 8}),
        (
            "multimodal_rewardbench",
            {"category/safety/bias": 3 / 4, "category/safety/toxicity": 1.0, "category/vqa": 1.0, "overall": 15 / 16},
        ),
    ],
)
def test_a_benchmark_by_its_name(name: str, figures: dict[str, float], tmp_path: Path) -> None:
    file = publish(name, tmp_path)
    with FakeServer(likes_dogs) as server:
        command = (name, "--input", file, "--image-root", tmp_path, "--model", "m", "--base-url", server.url)
        for _ in range(2):
            result = run(*command, "--out", tmp_path / "out")
            assert result.exit_code == 0, result.output
        assert len(server.bodies) == 2 * PAIRS, "both orders, paid once"
    found = json.loads((tmp_path / "out" / "judge.json").read_text())
    assert (found["benchmark"], found["records"], found["records_lost"]) == (name, PAIRS, {})
    official = {k.removeprefix("official/"): v for k, v in found["metrics"].items() if k.startswith("official/")}
    assert {figure: official[figure]["value"] for figure in figures} == pytest.approx(figures)
    assert official["overall"]["low"] < official["overall"]["value"] < official["overall"]["high"]
    for figure in ("accuracy_better_first", "accuracy_both_orders", "swap_consistency", "position_bias"):
        assert found["metrics"][f"critic/{figure}"]["n"]


def test_records_that_give_no_task_are_said(tmp_path: Path) -> None:
    file = publish("mm_rlhf_rewardbench", tmp_path)
    (tmp_path / "mcq" / "5.jpg").unlink()
    with FakeServer(likes_dogs) as server:
        result = run("mm_rlhf_rewardbench", "--input", file, "--image-root", tmp_path, "--model", "m", "--base-url",
                     server.url, "--out", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0
    assert f"some of {PAIRS} records gave no task (1 image-missing)" in " ".join(result.output.split())
    assert json.loads((tmp_path / "out" / "judge.json").read_text())["records_lost"] == {"image-missing": 1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("vl_rewardbench",), "give those of MMInstruction/VL-RewardBench with --input"),
        (("mm_rlhf_rewardbench",), "and its images with --image-root"),
        (("some/folder", "--limit", 3), "need the name of a benchmark"),
    ],
)
def test_what_is_lacking_is_said(words: tuple[object, ...], message: str, tmp_path: Path) -> None:
    result = run(*words, "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--out", tmp_path)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_a_file_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [benchmark_name([name]) for name in BENCHMARKS] == list(BENCHMARKS)
    (tmp_path / "vl_rewardbench").mkdir()
    assert benchmark_name(["vl_rewardbench"]) is None
    assert benchmark_name(["vl_rewardbench", "mm_rlhf_rewardbench"]) is None


PUBLISHED_IDS = {
    "hallucination_pair-": 448,
    "RLAIF-V-": 233,
    "RLHF-V-": 68,
    "mathverse_": 167,
    "mmmu_pro_": 151,
    "wildvision-battle-": 173,
    "jailbreak-": 7,
    "politics-": 1,
    "svit-": 1,
    "LRVInstruction-": 1,
}
"""How the ids of the 1,250 published rows begin, and how often."""


def published() -> Iterator[dict[str, Any]]:
    for begins, count in PUBLISHED_IDS.items():
        for n in range(count):
            image = {"bytes": f"\x89PNG {begins} {n}".encode("latin-1"), "path": "x.png"}
            yield {"id": f"{begins}{n}", "query": f"What {begins}{n}?", "response": ["A dog.", "A cat."],
                   "image": image, "human_ranking": [n % 2, 1 - n % 2]}  # fmt: skip


def test_always_the_first_on_vl_rewardbench(scripted: Any) -> None:
    """A script that shows the better response first reports 100 % for this judge."""
    pairs = [pair for record in published() for pair in pairs_of("vl_rewardbench", record)]
    tasks = [task_from_row(t.row()) for t in preference_tasks(pairs, split="test", orders="both", template="compact")]
    assert Counter(task.category for task in tasks if task.order == 0) == {
        "hallucination": 749, "reasoning": 318, "general": 183,
    }  # fmt: skip
    judgements = judge(scripted(lambda request: "<think>Looked.</think>\\boxed{1}"), tasks, Sampling())
    figures = {name: estimate.value for name, estimate in pairwise_metrics(judgements).items()}
    assert (figures["accuracy"], figures["position_bias"], figures["swap_consistency"]) == (0.5, 1, 0)
    assert (figures["accuracy_better_first"], figures["accuracy_both_orders"]) == (1, 0)
    assert {name: e.value for name, e in official_metrics(judgements).items()} == dict.fromkeys(
        ("overall", "macro", "category/hallucination", "category/reasoning", "category/general"), 0.5
    )
