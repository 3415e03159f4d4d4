"""A run directory made by rules, with every file that a whole run leaves and texts that try to break the page.

The numbers are those of no run: they are shaped like one (a rise, some noise, intervals) so that charts and tables are
drawn at the sizes that they have in earnest.
"""

import io
import json
import random
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from data_prep.tasks.pairwise import SCHEMA, Image, PreferencePair, PreferenceTask

HOSTILE = (
    "</script><script>window.stolen = 1</script>",
    "<img src=x onerror='window.stolen = 2'>",
    "<!-- <script> </textarea></style><svg onload=window.stolen=3>",
    "{{ 7 * 7 }} {% raw %} &lt;b&gt; \" ' `${window.stolen = 4}`",
    "control \x00\x01\x1b[31m, bidi \u202e drawkcab, joined \u200d\ufeff, lone \ud800",
    "no_blank_" * 60,
    "$x^2 \\frac{1}{2}$ \\boxed{1} <think>not a thought</think> <image>",
)


def make_image(number: int) -> Image:
    """An 8 x 8 grey image, each number its own."""
    draw = random.Random(number)
    out = io.BytesIO()
    PIL.Image.frombytes("L", (8, 8), draw.randbytes(64)).save(out, format="PNG")
    return Image(data=out.getvalue())


def tasks(pairs: int, per_image: int = 4) -> list[PreferenceTask]:
    """Both orders of each pair; every seventh pair carries hostile text."""
    made = []
    for number in range(pairs):
        bad = HOSTILE[number // 7 % len(HOSTILE)] if number % 7 == 0 else ""
        digit = number % 10
        pair = PreferencePair(
            source="made",
            images=(make_image(number // per_image),),
            question=f"What digit is shown? {bad}".strip(),
            responses=(f"It is a {digit}. {bad}".strip(), f"It is a {(digit + 3) % 10}, pair {number}."),
            preferred=0,
        )
        made += [PreferenceTask(pair, order, split="test", index=number) for order in (0, 1)]
    return made


def judgement_lines(listed: list[PreferenceTask], skill: float, seed: int) -> list[dict[str, Any]]:
    """One judgement a task: right with probability `skill`, else wrong, unparsed or without an answer."""
    draw = random.Random(seed)
    lines = []
    for task in listed:
        first, second = task.shown
        luck = draw.random()
        pred: str | None = task.ground_truth
        reason, error = "ok", None
        if luck > 0.97:
            pred, reason, error = None, "request_failed", "the server answered 500"
        elif luck > 0.9:
            pred, reason = None, "no_box"
        elif luck > skill:
            pred = {"1": "2", "2": "1"}[task.ground_truth]
        thought = f"The strokes close at the top. {task.pair.question[20:]}"
        box = f"\\boxed{{{pred}}}" if pred else "I cannot say."
        lines.append(
            {
                "pair_id": task.pair.pair_id,
                "order": task.order,
                "category": "made",
                "image_blake3": task.pair.images[0].blake3,
                "question": task.pair.question,
                "response_1": first,
                "response_2": second,
                "response": "" if error else f"<think>{thought}</think>{box}",
                "thinking": "" if error else thought,
                "pred": pred,
                "ground_truth": task.ground_truth,
                "correct": pred == task.ground_truth,
                "reason": reason,
                "error": error,
            }
        )
    return lines


def step_data(step: int, steps: int, draw: random.Random) -> dict[str, float]:
    """What the trainer logs at one step."""
    done = step / steps
    accuracy = min(0.98, 0.55 + 0.3 * done + draw.gauss(0, 0.03))
    form = min(1.0, 0.93 + 0.07 * done)
    bad = 1 - form
    timers = {"gen": 3.1, "old_log_prob": 1.2, "ref": 1.1, "update_actor": 4.0, "update_weights": 0.4}
    timing = {f"timing_s/{name}": mean * draw.uniform(0.9, 1.2) for name, mean in timers.items()}
    return timing | {
        "timing_s/step": sum(timing.values()) + 1.5,
        "actor/pg_loss": draw.gauss(0, 0.01),
        "critic/score/mean": 0.9 * accuracy + 0.1 * form,
        "critic_r1/score": 0.9 * accuracy + 0.1 * form,
        "critic_r1/accuracy": accuracy,
        "critic_r1/format_rate": form,
        "critic_r1/reason/ok": form,
        "critic_r1/reason/no_box": bad * 0.7,
        "critic_r1/reason/$unclosed_think^": bad * 0.3,
        "critic_r1/position_bias": 0.2 * (1 - done) + draw.gauss(0, 0.03),
        "critic_r1/groups_without_signal": 0.2 + 0.4 * done,
        "actor/kl_loss": 0.004 * step * draw.uniform(0.8, 1.2),
        "actor/grad_norm": 1.5 * draw.uniform(0.7, 1.6),
        "response_length/mean": 17 + draw.gauss(0, 0.4),
        "training/rollout_actor_probs_pearson_corr": 1 - 10 ** draw.uniform(-7, -5.5),
    }


def evaluation(shift: float) -> dict[str, Any]:
    """An evaluation file; `shift` moves its figures up."""

    def estimate(value: float, n: int, half: float = 0.03) -> dict[str, Any]:
        return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "n": n}

    ns = (1, 2, 4, 8)
    gain = {"one_sample": 0.0, "majority": 0.03, "knock_out": 0.05, "oracle": 0.12}
    figures = {name: estimate(0.55 + shift / 2 + 3 * rise, 400, 0.04) for name, rise in gain.items()}
    metrics = {
        "critic/accuracy": estimate(0.61 + shift, 800),
        "critic/accuracy_better_first": estimate(0.65 + shift, 400),
        "critic/accuracy_better_second": estimate(0.57 + shift, 400),
        "critic/accuracy_readable": estimate(0.63 + shift, 776),
        "critic/accuracy_both_orders": estimate(0.45 + shift, 400),
        "critic/swap_consistency": estimate(0.7 + shift, 400),
        "critic/position_bias": {"value": 0.12 - shift, "low": -0.02, "high": 0.2, "n": 400},
        "critic/format_rate": estimate(0.97, 800, 0.01),
        "critic/parse_failures": estimate(0.03, 800, 0.01),
        "critic/parse_failures/no_box": estimate(0.03, 800, 0.01),
        "critic/request_failures": estimate(0.0, 800, 0.004),
        "policy/greedy": estimate(0.55 + shift / 2, 400),
        "policy/sampled": estimate(0.5 + shift / 2, 3200),
        "a/figure<b>of</b>/no$name^": {"value": shift or None, "low": None, "high": None, "n": 0},
    }
    metrics |= {f"best_of_8/{name}": figure for name, figure in figures.items()}
    metrics["best_of_8/knock_out_minus_one_sample"] = {"value": 0.15, "low": 0.11, "high": 0.19, "n": 400}
    curves = {
        f"best_of_8/{name}": [
            {"n_candidates": n, **estimate(0.55 + shift / 2 + rise * i, 400, 0.04)} for i, n in enumerate(ns)
        ]
        for name, rise in gain.items()
    }
    return {
        "metrics": metrics,
        "curves": curves,
        "bills": {"best_of_8": {"matches": 2800, "judgements": 5600, "prompt_tokens": 420000}},
    }


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def sample_lines(step: int, seed: int) -> list[dict[str, Any]]:
    """The rollouts of one step: two prompts, four samples each, as the trainer's log has them."""
    lines = []
    for task in tasks(2)[::2]:
        for sample, line in enumerate(judgement_lines([task] * 4, 0.6, seed + step)):
            shared = {key: line[key] for key in ("pair_id", "order", "response", "ground_truth", "reason")}
            lines.append(
                {
                    "step": step,
                    "uid": f"{step}-{task.pair.pair_id}",
                    "sample": sample,
                    "data_source": "critic/made",
                    "image": [task.pair.images[0].blake3],
                    "prompt": task.prompt,
                    "response_tokens": 17,
                    "pred": line["pred"] or "",
                    "acc": float(line["correct"]),
                    "score": 0.9 * line["correct"] + 0.1,
                    "format": 1.0,
                }
                | shared
            )
    return lines


def make_run(root: Path, *, pairs: int = 60, steps: int = 30, name: str = "made run") -> Path:
    """Writes a whole run below `root` and returns it; `pairs` are judged in both orders, before and after."""
    draw = random.Random(5)
    listed = tasks(pairs)
    (root / "data" / "critic").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(_rows(listed), schema=SCHEMA), root / "data" / "critic" / "test-00000.parquet")
    info = {
        "name": name,
        "seed": 0,
        "created": "2026-01-02T03:04:05+00:00",
        "settings": {
            "data": {"train_batch_size": 64, "note": HOSTILE[0]},
            "actor_rollout_ref": {"rollout": {"n": 8, "temperature": 1.0}, "actor": {"optim": {"lr": 1e-6}}},
            "reward": {"format_weight": 0.1, "of": None},
        },
        "machine": {"cpu": "a processor with a rather long name @ 2.00GHz", "cores": 2, "memory_gb": 7.8},
        "versions": {"python": "3.11.7", "verl": "0.9.1", "torch": "2.11.0", HOSTILE[1]: "0.24.0"},
        "stages": [
            {"name": "data", "seconds": 6.4, "status": "done"},
            {"name": "warm start", "seconds": 141.0, "status": "done"},
            {"name": "train", "seconds": 742.8, "status": "done"},
            {"name": "evaluate", "seconds": 88.0, "status": "done"},
            {"name": "report", "seconds": None, "status": "running"},
        ],
        "control": None,
    }
    (root / "run.json").write_text(json.dumps(info), encoding="utf-8")
    write_lines(
        root / "train" / "metrics.jsonl",
        [{"step": step, "data": step_data(step, steps, draw)} for step in range(1, steps + 1)],
    )
    write_lines(
        root / "train" / "samples.jsonl", [line for step in range(1, steps + 1) for line in sample_lines(step, 9)]
    )
    for seed, (stage, skill, shift) in enumerate((("before", 0.6, 0.0), ("after", 0.78, 0.14))):
        write_lines(root / "eval" / f"{stage}_judgements.jsonl", judgement_lines(listed, skill, seed))
        (root / "eval" / f"{stage}.json").write_text(json.dumps(evaluation(shift)), encoding="utf-8")
    return root


def _rows(listed: list[PreferenceTask]) -> list[dict[str, Any]]:
    rows = [task.row() for task in listed]
    for row, task in zip(rows, listed, strict=True):
        assert row["extra_info"]["image_blake3"] == [blake3(task.pair.images[0].data or b"").hexdigest()]
    return rows
