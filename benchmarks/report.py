"""Does a report with 5,000 judgements and their images stay usable? Its size, its load time, and what a filter takes.

    python -m benchmarks.report            writes benchmarks/results/report.json

Made for it: 2,500 pairs, judged in both orders, over 2,500 different photographs (JPEG, 640 x 480, about 80 kB, noise
on gradients, which compresses as badly as a photograph), responses of 600 characters and thoughts of 1,500. Measured in
the headless Chromium of the tests, from disk, with a fresh profile and at its real speed:

  load      from navigation to the first judgements drawn, and painted
  action    from the key or click to the next frame after the list was drawn anew: each filter, a search, the next page
"""

import argparse
import io
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from playwright.sync_api import Page

from data_prep.tasks.pairwise import SCHEMA, Image, PreferencePair, PreferenceTask
from recipe.critic_r1.provenance import machine
from recipe.critic_r1.report import build_page
from tests.report.chromium import browser, opened

HERE = Path(__file__).parent
CATEGORIES = ("hallucination", "reasoning", "general", "safety", "chart")
TARGETS = {"load_seconds": 3.0, "action_ms": 150.0, "file_mb": 80.0}
"""Ours: a page is there before one wonders, and a filter answers like a button."""

# An action is over when the list says another number than before and the browser has drawn that.
TIMED = """([action, argument]) => new Promise((resolve) => {
  const start = performance.now();
  const done = () => requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - start)));
  if (action === "click") document.querySelector(argument).click();
  if (action === "choose") {
    const select = document.getElementById(argument[0]);
    select.value = argument[1];
    select.dispatchEvent(new Event("change"));
  }
  if (action === "search") {
    const shown = document.getElementById("shown");
    new MutationObserver((_, watcher) => { watcher.disconnect(); done(); }).observe(shown, {childList: true});
    const search = document.getElementById("search");
    search.value = argument;
    search.dispatchEvent(new Event("input"));
    return;
  }
  done();
})"""
ACTIONS: list[tuple[str, str, Any]] = [
    ("kind: wrong", "click", "#filters button[data-filter=wrong]"),
    ("kind: inconsistent", "click", "#filters button[data-filter=inconsistent]"),
    ("kind: all", "click", "#filters button[data-filter=all]"),
    ("category", "choose", ["category", "=reasoning"]),
    ("order", "choose", ["order", "=1"]),
    ("clear", "click", "#clear"),
    ("next page", "click", "#next"),
    ("search, first (120 ms of waiting for more keys included)", "search", "words 77 "),
    ("search, later (likewise)", "search", "words 78 "),
]


def photograph(number: int) -> bytes:
    """A JPEG of 640 x 480 pixels, each number its own."""
    draw = np.random.default_rng(number)
    slope = np.add.outer(np.linspace(0, 130, 480), np.linspace(0, 90, 640))[:, :, None] * draw.uniform(0.3, 1, 3)
    pixels = np.clip(slope + draw.normal(0, 14, (480, 640, 3)), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, format="JPEG", quality=80)
    return out.getvalue()


def make_run(folder: Path, pairs: int, images: int) -> int:
    """A judge run and its tasks; returns the bytes of its images."""
    draw = random.Random(1)
    files = [photograph(number) for number in range(images)]
    tasks = []
    for number in range(pairs):
        pair = PreferencePair(
            source="made",
            images=(Image(data=files[number % images]),),
            question=f"What does image {number} show?",
            responses=(f"Response {number}. " + "It shows this. " * 40, "It shows that. " * 40),
            preferred=number % 2,
            meta={"category": CATEGORIES[number % len(CATEGORIES)]},
        )
        tasks += [PreferenceTask(pair, order, split="test", index=number) for order in (0, 1)]
    (folder / "tasks").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([task.row() for task in tasks], schema=SCHEMA), folder / "tasks/test.parquet")
    with (folder / "judgements.jsonl").open("w", encoding="utf-8") as lines:
        for task in tasks:
            first, second = task.shown
            pred = draw.choice([task.ground_truth] * 6 + ["1", "2", "1", "2", None])
            thoughts = " ".join(f"words {draw.randrange(10_000)} of thought." for _ in range(70))
            line = {
                "pair_id": task.pair.pair_id,
                "order": task.order,
                "category": task.pair.meta["category"],
                "image_blake3": task.pair.images[0].blake3,
                "question": task.pair.question,
                "response_1": first,
                "response_2": second,
                "response": f"<think>{thoughts}</think>" + (f"\\boxed{{{pred}}}" if pred else ""),
                "pred": pred,
                "ground_truth": task.ground_truth,
                "correct": pred == task.ground_truth,
                "reason": "ok" if pred else "no_box",
                "error": None,
            }
            lines.write(json.dumps(line) + "\n")
    (folder / "judge.json").write_text('{"model": "made"}', encoding="utf-8")
    return sum(map(len, files))


def _loaded(page: Page) -> float:
    """Seconds from navigation to the first painted judgements."""
    page.wait_for_function("document.querySelectorAll('#cards .card').length > 0")
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    return (
        page.evaluate("new Promise((r) => requestAnimationFrame(() => setTimeout(() => r(performance.now()))))") / 1e3
    )


def measure(report: Path, rounds: int) -> dict[str, Any]:
    loads: list[float] = []
    actions: dict[str, list[float]] = {name: [] for name, _, _ in ACTIONS}
    heap: list[float] = []
    elements = 0
    with browser() as chromium:
        for _ in range(rounds):
            with opened(chromium, report) as (page, complaints):
                loads.append(_loaded(page))
                for name, action, argument in ACTIONS:
                    actions[name].append(page.evaluate(TIMED, [action, argument]))
                elements = page.evaluate("document.querySelectorAll('*').length")
                session = page.context.new_cdp_session(page)
                heap.append(session.send("Runtime.getHeapUsage")["usedSize"] / 1e6)
                if complaints:
                    raise RuntimeError(f"the page complains: {complaints[0]}")
    return {
        "load_seconds": {"median": statistics.median(loads), "max": max(loads)},
        "actions_ms": {name: {"median": statistics.median(v), "max": max(v)} for name, v in actions.items()},
        "script_heap_mb": statistics.median(heap),
        "elements": elements,
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2500, help="each in both orders")
    parser.add_argument("--images", type=int, default=2500, help="different ones")
    parser.add_argument("--rounds", type=int, default=7, help="fresh loads of the page")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "report.json")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        images = make_run(run, asked.pairs, asked.images)
        started = time.perf_counter()
        report = build_page([str(run)])
        built = time.perf_counter() - started
        found = measure(report, asked.rounds)
        size = report.stat().st_size / 1e6
    slowest = max(times["median"] for name, times in found["actions_ms"].items() if "search" not in name)
    result = {
        "machine": machine(),
        "load_average": os.getloadavg()[0],
        "judgements": 2 * asked.pairs,
        "images": asked.images,
        "images_mb": images / 1e6,
        "rounds": asked.rounds,
        "build_seconds": built,
        "file_mb": size,
        **found,
        "targets": TARGETS,
        "met": {
            "load_seconds": found["load_seconds"]["median"] <= TARGETS["load_seconds"],
            "action_ms": slowest <= TARGETS["action_ms"],
            "file_mb": size <= TARGETS["file_mb"],
        },
    }
    asked.out.write_text(json.dumps(_rounded(result), indent=2) + "\n", encoding="utf-8")
    print(json.dumps(_rounded(result), indent=2))


if __name__ == "__main__":
    main()
