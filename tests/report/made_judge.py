"""Folders as `critic-r1 judge`, `best-of-n` and `eval-policy` leave them, with figures by the code that makes them.

The judgements are drawn by a seeded rule; everything above them is computed as the commands compute it, so that a page
about them can be checked against a second count.
"""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.tasks.pairwise import SCHEMA, PreferencePair, PreferenceTask
from recipe.critic_r1.judging.intervals import Estimate
from recipe.critic_r1.judging.metrics import category_metrics, length_metrics, pairwise_metrics
from recipe.critic_r1.judging.official_metrics import official_metrics
from recipe.critic_r1.judging.pairwise import Judgement, JudgeTask
from tests.report.made_run import HOSTILE, make_image

CATEGORIES = {"hallucination": 0.1, "reasoning": -0.15, "general/chat <b>": 0.0}
"""category -> how much easier than the mean"""


def benchmark(pairs: int, *, per_image: int = 2) -> list[PreferenceTask]:
    """Both orders of made benchmark pairs in three categories; every ninth carries hostile text."""
    made = []
    for number in range(pairs):
        bad = HOSTILE[number // 9 % len(HOSTILE)] if number % 9 == 0 else ""
        pair = PreferencePair(
            source="made_bench",
            images=(make_image(number // per_image),),
            question=f"Which is more faithful, case {number}? {bad}".strip(),
            responses=(f"A short one. {bad}".strip(), f"A longer response that goes on about case {number}."),
            preferred=1 if number % 2 else 0,
            meta={"category": list(CATEGORIES)[number % len(CATEGORIES)]},
        )
        made += [PreferenceTask(pair, order, split="test", index=number) for order in (0, 1)]
    return made


def judge_task(task: PreferenceTask) -> JudgeTask:
    """A benchmark's pair in one order as a judge is asked; the prompt stays empty."""
    first, second = task.shown
    return JudgeTask(
        pair_id=task.pair.pair_id,
        order=task.order,
        messages=(),
        question=task.pair.question,
        response_1=first,
        response_2=second,
        ground_truth=task.ground_truth,
        image_blake3=task.pair.images[0].blake3,
        category=str(task.pair.meta["category"]),
        group=task.pair.pair_id,
    )


def judgements(listed: list[PreferenceTask], skill: float, seed: int) -> list[Judgement]:
    """One judgement a task: right by `skill` and category, a few unparsed, one in a hundred unanswered."""
    draw = random.Random(seed)
    made = []
    for task in listed:
        category = str(task.pair.meta["category"])
        luck = draw.random()
        pred: str | None = task.ground_truth
        reason, error = "ok", None
        if luck > 0.99:
            pred, reason, error = None, "request_failed", "the server answered 500"
        elif luck > 0.95:
            pred, reason = None, draw.choice(["no_box", "two_boxes"])
        elif luck > skill + CATEGORIES[category]:
            pred = {"1": "2", "2": "1"}[task.ground_truth]
        box = f"\\boxed{{{pred}}}" if pred else "I cannot say."
        text = "" if error else f"<think>I compare both. {task.pair.question[-40:]}</think>{box}"
        made.append(Judgement(judge_task(task), pred, reason, float(pred is not None), (pred,), text, error=error))
    return made


def write_benchmark(folder: Path, listed: list[PreferenceTask]) -> Path:
    """The benchmark as Parquet, for the images."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([task.row() for task in listed], schema=SCHEMA), folder / "test-00000.parquet")
    return folder


def _figures(figures: dict[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.as_dict() for name, estimate in figures.items()}


def write_judgements(folder: Path, made: list[Judgement]) -> None:
    """`judgements.jsonl`; a lone surrogate is written as its escape."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(one.record()) for one in made]
    (folder / "judgements.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def make_judge_run(folder: Path, listed: list[PreferenceTask], skill: float, seed: int, model: str = "m") -> Path:
    """What `critic-r1 judge --out FOLDER` leaves."""
    made = judgements(listed, skill, seed)
    figures = {f"critic/{k}": v for k, v in pairwise_metrics(made).items()}
    figures |= {f"length/{k}": v for k, v in length_metrics(made).items()}
    figures |= {f"category/{k}": v for k, v in category_metrics(made).items()}
    figures |= {f"official/{k}": v for k, v in official_metrics(made).items()}
    write_judgements(folder, made)
    settings = {"model": model, "prompt": "r1", "sampling": {"temperature": 0.0, "n": 1}, "verdicts": "strict"}
    content = {**settings, "traffic": {"requests": len(made)}, "metrics": _figures(figures)}
    (folder / "judge.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def make_best_of_n(folder: Path, gain: float, *, n: int = 8, questions: int = 40) -> Path:
    """What `critic-r1 best-of-n --out FOLDER` leaves: curves with their costs."""

    def at(value: float) -> dict[str, Any]:
        return {"value": value, "low": max(0.0, value - 0.05), "high": min(1.0, value + 0.05), "n": questions}

    sizes = [1 << level for level in range(n.bit_length())]
    rises = {"knock_out": gain, "one_sample": 0.0, "majority": gain / 2, "oracle": 0.1, "round_robin": gain * 0.8}
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, rise in rises.items():
        judged = name in ("knock_out", "round_robin")
        curves[name] = [
            {
                "n_candidates": size,
                **at(0.4 + rise * level),
                "judgements": 2.0 * (size - 1) if judged else 0.0,
                "tokens": 300.0 * size + (900.0 * (size - 1) if judged else 0),
                "tokens_per_point": 250.0 if level and rise else None,
            }
            for level, size in enumerate(sizes)
        ]
    metrics = {f"best_of_{n}/{name}": at(points[-1]["value"]) for name, points in curves.items()}
    metrics[f"best_of_{n}/knock_out_minus_one_sample"] = {
        "value": gain,
        "low": gain / 2,
        "high": gain * 2,
        "n": questions,
    }
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model": "m", "n": n, "curves": curves, "bill": {"matches": 280, "judgements": 560}, "metrics": metrics}
    (folder / "best_of_n.json").write_text(json.dumps(content), encoding="utf-8")
    lines = [json.dumps({"problem_id": f"q{number}", "texts": []}) for number in range(questions)]
    (folder / "candidates.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def make_policy_run(folder: Path, shift: float, suite: str = "made") -> Path:
    """What `critic-r1 eval-policy` leaves."""
    figures = {
        "policy/chart/made_qa": {"value": 0.5 + shift, "low": 0.45 + shift, "high": 0.55 + shift, "n": 200},
        "policy/general/made_score": {"value": 1500 + 100 * shift, "low": 1400, "high": 1600, "n": 90},
        "policy/mean": {"value": 0.4 + shift, "low": 0.35 + shift, "high": 0.45 + shift, "n": 290},
    }
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "suite": suite,
        "lmms_eval": "0.7.3",
        "metrics": figures,
        "reading": {"made_qa": {"boxed": 180}},
        "left_out": {"made_video": "3 of 90 requests failed"},
    }
    (folder / "eval_policy.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
