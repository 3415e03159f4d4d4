"""Does a report with 5,000 judgements and their images stay usable? Its size, its load time, and what a filter takes.

    python -m benchmarks.report

Made for it: 2,500 pairs, judged in both orders, over 2,500 different images (JPEG, 640 x 480, about 80 kB), with
responses of 600 characters and thoughts of 1,500. Measured in the headless Chromium of the tests, from disk, with a
fresh profile and at its real speed:

  load      from navigation to the first judgements drawn, and painted
  action    from the key or click to the next frame after the list was drawn anew: each filter, a search, the next page
"""

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from playwright.sync_api import Page

from benchmarks.harness import RESULTS, Out, photo, write, write_tasks
from data_prep.files import write_json
from data_prep.tasks.pairwise import Image, PreferencePair, PreferenceTask
from recipe.critic_r1.judging.pairwise import Judgement
from recipe.critic_r1.report import build_page
from tests.report.chromium import browser, opened
from tests.report.made_judge import judge_task, write_judgements

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


def make_run(folder: Path, pairs: int, images: int) -> int:
    """A judge run and its tasks; returns the bytes of its images."""
    draw, tasks = random.Random(1), []
    files = [photo((640, 480), number) for number in range(images)]
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
    write_tasks(folder / "tasks" / "test.parquet", iter(tasks))
    judged = []
    for task in tasks:
        pred = draw.choice([task.ground_truth] * 6 + ["1", "2", "1", "2", None])
        thoughts = " ".join(f"words {draw.randrange(10_000)} of thought." for _ in range(70))
        text = f"<think>{thoughts}</think>" + (f"\\boxed{{{pred}}}" if pred else "")
        reason = "ok" if pred else "no_box"
        judged.append(Judgement(judge_task(task), pred, reason, float(pred is not None), (pred,), text))
    write_judgements(folder, judged)
    write_json(folder / "judge.json", {"model": "made"})
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


def main(
    pairs: Annotated[int, typer.Option(help="Pairs, each judged in both orders.")] = 2500,
    images: Annotated[int, typer.Option(help="Different images.")] = 2500,
    rounds: Annotated[int, typer.Option(help="Fresh loads of the page.")] = 7,
    out: Out = RESULTS / "report.json",
) -> None:
    """Make a run, build its page, use it, and write the result."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        image_bytes = make_run(run, pairs, images)
        started = time.perf_counter()
        page = build_page([str(run)])
        built = time.perf_counter() - started
        found, size = measure(page, rounds), page.stat().st_size / 1e6
    slowest = max(times["median"] for name, times in found["actions_ms"].items() if "search" not in name)
    reached = {"load_seconds": found["load_seconds"]["median"], "action_ms": slowest, "file_mb": size}
    made = {"judgements": 2 * pairs, "images": images, "images_mb": image_bytes / 1e6, "rounds": rounds}
    met = {name: reached[name] <= target for name, target in TARGETS.items()}
    write(out, {**made, "build_seconds": built, "file_mb": size, **found, "targets": TARGETS, "met": met})


if __name__ == "__main__":
    typer.run(main)
