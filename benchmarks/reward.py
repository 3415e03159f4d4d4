"""How fast the rewards are, what hostile text costs, and whether a million random responses break them.

Compares with the release's reward (mathruler), math-verify and a bare regular expression, in one run. Every opponent
runs in a child process with a time-out: some of the texts would keep it busy for hours.

    python -m benchmarks.reward
"""

import logging
import multiprocessing
import random
import re
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from benchmarks.harness import RESULTS, Out, write
from reward_fns import mixed, preference
from tests.reward_fns.response_grammar import random_response

CHARS = 3_500
HOSTILE_SECONDS = 10.0
TARGETS = {"speed_up_over_release": 20.0, "p99_us": 30.0, "doubling": 2.3}
_FORM = re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL)
_WORDS = [
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
    "2<3",
]
_BARE = re.compile(r"\\boxed\{([^{}]*)\}")


def ours(text: str, label: str) -> float:
    return float(preference.compute_score("critic/bench", text, label)["score"])


def ours_release_compatible(text: str, label: str) -> float:
    return float(preference.compute_score("critic/bench", text, label, release_compatible=True)["score"])


def release(text: str, label: str) -> float:
    from mathruler.grader import extract_boxed_content, grade_answer

    text = re.sub(r"\s*(<|>|/)\s*", r"\1", text)
    correct = float(grade_answer(extract_boxed_content(text), label))
    return 0.9 * correct + 0.1 * (_FORM.fullmatch(text) is not None)


def math_verify(text: str, label: str) -> float:
    from math_verify import parse, verify

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


def main(
    fuzzed: Annotated[int, typer.Option("--fuzz", help="Random responses to score.")] = 1_000_000,
    out: Out = RESULTS / "reward.json",
) -> None:
    """Measure speed, growth with length, hostile texts and random responses; write the result."""
    logging.disable(logging.CRITICAL)
    rng = random.Random(0)
    mix = [realistic(rng) for _ in range(300)]
    speed = {}
    for name, reward in REWARDS.items():
        timings(reward, mix[:20], 1)
        found = sorted(timings(reward, mix, 30 if name.startswith(("ours", "bare")) else 2))
        mean, p99 = statistics.fmean(found), found[int(len(found) * 0.99)]
        speed[name] = {"calls": len(found), "mean_us": mean, "median_us": found[len(found) // 2], "p99_us": p99}
        print(f"{name:26} mean {mean:9.1f} us   p99 {p99:9.1f} us", flush=True)

    doubling = {}
    rng = random.Random(1)
    texts = {length: hostile(length) | {"realistic": realistic(rng, length)} for length in (500_000, 1_000_000)}
    for name in texts[500_000]:
        if name != "tower of powers":  # it does not grow
            # In turns, so that other work on the machine hits both lengths alike; the least of the calls is least hit.
            found = timings(ours, [of[name] for of in texts.values()], 25)
            short, long = min(found[0::2]), min(found[1::2])
            doubling[name] = {"us_at_500k": short, "us_at_1m": long, "ratio": long / short}
            print(f"doubling {name:32} {long / short:.2f}", flush=True)

    costs = {what: {name: seconds_for(name, text) for name in REWARDS} for what, text in hostile(30_000).items()}
    reached = {
        "speed_up_over_release": speed["release"]["mean_us"] / speed["ours"]["mean_us"],
        "p99_us": speed["ours"]["p99_us"],
        "doubling": max(entry["ratio"] for entry in doubling.values()),
    }
    met = {
        name: value >= TARGETS[name] if "speed" in name else value <= TARGETS[name] for name, value in reached.items()
    }
    result = {
        "response_chars": CHARS,
        "speed": speed,
        "speed_up_over_release": reached["speed_up_over_release"],
        "doubling": doubling,
        "hostile_30k_chars_seconds": costs,
        "hostile_time_out_seconds": HOSTILE_SECONDS,
        "fuzz": fuzz(fuzzed, 0),
        "targets": TARGETS,
        "met": met,
    }
    write(out, result)


if __name__ == "__main__":
    typer.run(main)
