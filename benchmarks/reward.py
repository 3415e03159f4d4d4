"""How fast the rewards are, what hostile text costs, and whether a million random responses break them.

Compares with the release's reward (mathruler), math-verify and a bare regular expression, in one run. Every opponent
runs in a child process with a time-out: some of the texts would keep it busy for hours.

    python benchmarks/reward.py            writes benchmarks/results/reward.json
"""

import argparse
import json
import logging
import multiprocessing
import platform
import random
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests" / "reward_fns")]

from response_grammar import random_response  # type: ignore[import-not-found]  # noqa: E402

from reward_fns import mixed, preference  # noqa: E402

CHARS = 3_500
HOSTILE_SECONDS = 10.0
TARGETS = {"speed_up_over_release": 20.0, "p99_us": 30.0, "doubling": 2.3}
_FORM = re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL)
_WORDS = (
    "the",
    "first",
    "response",
    "says",
    "there",
    "is",
    "a",
    "dog",
    "which",
    "image",
    "does",
    "not",
    "show,",
    "2 < 3",
)
_BARE = re.compile(r"\\boxed\{([^{}]*)\}")


def ours(text: str, label: str) -> float:
    return preference.compute_score("critic/bench", text, label)["score"]


def ours_release_compatible(text: str, label: str) -> float:
    return preference.compute_score("critic/bench", text, label, release_compatible=True)["score"]


def release(text: str, label: str) -> float:
    from mathruler.grader import extract_boxed_content, grade_answer

    text = re.sub(r"\s*(<|>|/)\s*", r"\1", text)
    return 0.9 * grade_answer(extract_boxed_content(text), label) + 0.1 * (_FORM.fullmatch(text) is not None)


def math_verify(text: str, label: str) -> float:
    from math_verify import parse, verify  # type: ignore[import-untyped]

    return float(verify(parse(label, parsing_timeout=None), parse(text, parsing_timeout=None), timeout_seconds=None))


def bare_regex(text: str, label: str) -> float:
    found = _BARE.findall(text)
    return float(bool(found) and found[-1].strip() == label)


REWARDS: dict[str, Callable[[str, str], float]] = {
    function.__name__: function for function in (ours, ours_release_compatible, release, math_verify, bare_regex)
}


def realistic(rng: random.Random, chars: int = CHARS) -> str:
    """A judgement of about `chars` characters; 45 % say 1, 45 % say 2, the rest is what models get wrong."""
    thoughts = " ".join(rng.choices(_WORDS, k=chars // 4))[: chars - 60]
    kind = rng.random()
    verdict = "1" if kind < 0.45 else "2" if kind < 0.9 else rng.choice(("Response 1", "tie", "A", "1.0"))
    text = f"<think>{thoughts}</think>\nThe better response is \\boxed{{{verdict}}}"
    return text[: -rng.randint(1, 400)] if kind > 0.97 else text


def hostile(chars: int) -> dict[str, str]:
    """Texts of about `chars` characters that make some reader slow."""
    return {
        "blanks": " " * chars,
        "closing tags and opened boxes": "<think>" + "</think>\\boxed{" * (chars // 15),
        "opened boxes": "\\boxed{" * (chars // 7),
        "braces in a box": "<think>a</think>\\boxed{" + "{" * chars,
        "closing tags": "<think>" + "</think>" * (chars // 8),
        "think blocks": "<think>a</think>" * (chars // 16) + "\\boxed{1}",
        "boxes": "<think>a</think>" + "\\boxed{1}" * (chars // 9),
        "one long number": "<think>a</think>\\boxed{" + "1" * chars + "}",
        "tower of powers": "<think>a</think>\\boxed{" + "9**" * 6 + "9}",
    }


def _serve(name: str, text: str, pipe: Any) -> None:
    logging.disable(logging.CRITICAL)
    reward = REWARDS[name]
    reward("<think>a</think>\\boxed{1}", "1")
    start = time.perf_counter()
    reward(text, "1")
    pipe.send(time.perf_counter() - start)


def seconds_for(name: str, text: str) -> float | None:
    """Seconds for one call in a child; None when it exceeds HOSTILE_SECONDS after a start of at most a minute."""
    here, there = multiprocessing.Pipe(False)
    child = multiprocessing.get_context("fork").Process(target=_serve, args=(name, text, there))
    child.start()
    there.close()
    try:
        return here.recv() if here.poll(HOSTILE_SECONDS) else None
    except EOFError:
        return None
    finally:
        child.kill()
        child.join()


def timings(reward: Callable[[str, str], float], texts: list[str], repeats: int) -> list[float]:
    """Microseconds for each call."""
    found = []
    for _ in range(repeats):
        for text in texts:
            start = time.perf_counter_ns()
            reward(text, "1")
            found.append((time.perf_counter_ns() - start) / 1_000)
    return found


def fuzz(count: int, seed: int) -> dict[str, Any]:
    """Random responses through every reward: any exception, changed keys, score off [0, 1] or double gold stops it."""
    rng = random.Random(seed)
    sources = {
        "critic/x": ("1", "2"),
        "critic_score/x": ("7", "3"),
        "critic_nway/x": ("1", "2"),
        "policy/x": ("1", "2"),
    }
    keys = list(mixed.compute_score("critic/x", "", "1"))
    best = dict.fromkeys(sources, 0.0)
    for index in range(count):
        source = tuple(sources)[index % len(sources)]
        text = random_response(rng)
        results = [mixed.compute_score(source, text, label, answer={"symbolic": False}) for label in sources[source]]
        scores = [result["score"] for result in results]
        if any(list(result) != keys for result in results) or not all(0 <= score <= 1 for score in scores):
            raise SystemExit(f"broken contract: {source} {text!r} {results}")
        if scores.count(1.0) > 1:
            raise SystemExit(f"paid for both labels: {source} {text!r}")
        best[source] = max(best[source], *scores)
    return {"responses": count, "seed": seed, "failures": 0, "best_score": best}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--fuzz", type=int, default=1_000_000)
    options.add_argument("--out", type=Path, default=HERE / "results" / "reward.json")
    args = options.parse_args()
    logging.disable(logging.CRITICAL)

    rng = random.Random(0)
    mix = [realistic(rng) for _ in range(300)]
    speed = {}
    for name, reward in REWARDS.items():
        timings(reward, mix[:20], 1)
        fast = name.startswith(("ours", "bare"))
        found = sorted(timings(reward, mix, 30) if fast else timings(reward, mix, 2))
        speed[name] = {
            "calls": len(found),
            "mean_us": statistics.fmean(found),
            "median_us": found[len(found) // 2],
            "p99_us": found[int(len(found) * 0.99)],
        }
        print(f"{name:26} mean {speed[name]['mean_us']:9.1f} us   p99 {speed[name]['p99_us']:9.1f} us", flush=True)

    doubling = {}
    base, double = hostile(500_000), hostile(1_000_000)
    rng = random.Random(1)
    base["realistic"], double["realistic"] = realistic(rng, 500_000), realistic(rng, 1_000_000)
    del base["tower of powers"], double["tower of powers"]
    for name in base:
        # In turns, so that other work on the machine hits both lengths alike; the least of the calls is the least hit.
        found = timings(ours, [base[name], double[name]], 25)
        pair = [min(found[0::2]), min(found[1::2])]
        doubling[name] = {"us_at_500k": pair[0], "us_at_1m": pair[1], "ratio": pair[1] / pair[0]}
        print(f"doubling {name:32} {doubling[name]['ratio']:.2f}", flush=True)

    costs: dict[str, dict[str, float | None]] = {}
    for what, text in hostile(30_000).items():
        costs[what] = {name: seconds_for(name, text) for name in REWARDS}
        print(f"hostile {what:32}", {name: cost and round(cost, 5) for name, cost in costs[what].items()}, flush=True)

    fuzzed = fuzz(args.fuzz, 0)
    speed_up = speed["release"]["mean_us"] / speed["ours"]["mean_us"]
    worst = max(entry["ratio"] for entry in doubling.values())
    result = {
        "machine": {"cpu": _cpu(), "python": platform.python_version(), "system": platform.platform()},
        "response_chars": CHARS,
        "speed": speed,
        "speed_up_over_release": speed_up,
        "doubling": doubling,
        "hostile_30k_chars_seconds": costs,
        "hostile_time_out_seconds": HOSTILE_SECONDS,
        "fuzz": fuzzed,
        "targets": TARGETS,
        "met": {
            "speed_up_over_release": speed_up >= TARGETS["speed_up_over_release"],
            "p99_us": speed["ours"]["p99_us"] <= TARGETS["p99_us"],
            "doubling": worst <= TARGETS["doubling"],
        },
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{speed_up:.0f} times the release; doubling at most {worst:.2f}; met: {result['met']}; {args.out}")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


if __name__ == "__main__":
    main()
