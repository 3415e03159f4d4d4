"""The demo's held-out evaluation: the model as a critic, as a policy, and as its own critic.

One process, one vLLM engine, one pass over the test images. Run before and after training with the same data and the
same seed, so that a difference between two result files is a difference between two models. It runs in a process of its
own: exiting the process is the most reliable way to release the engine.

    python -m recipe.critic_r1.demo.evaluate --model DIR --data DIR --out eval.json

writes `eval.json` (all metrics with intervals, curves, costs, settings) and next to it `judgements.jsonl` (every
verdict on the test pairs) and `candidates.jsonl` (the sampled answers; with `--candidates` another model's critic
chooses among them).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import compress
from pathlib import Path
from typing import Annotated, Any

import typer

from data_prep.files import write_json, write_json_lines
from data_prep.tasks.prompts import get_template
from recipe.critic_r1.judging.generation import Generation, GenerationRequest, Generator, Sampling
from recipe.critic_r1.judging.intervals import ClusterBootstrap, Estimate
from recipe.critic_r1.judging.metrics import pairwise_metrics
from recipe.critic_r1.judging.pairwise import Judgement, JudgeTask, judge, read_rows, task_from_row
from recipe.critic_r1.selection.candidates import (
    Pool,
    Problem,
    exact_match,
    final_answer,
    load_pools,
    problem_from_row,
    sample_pools,
    save_pools,
)
from recipe.critic_r1.selection.curves import BestOfNCurve, measure
from recipe.critic_r1.selection.knock_out import knock_out
from recipe.critic_r1.selection.matches import MatchJudge, critic_prompt
from reward_fns.verdict import find_box

MAX_TOKENS = 24
"""Maximum length of an answer in the plain demo, whose answers have 14 tokens."""

N_CANDIDATES = 8

Progress = Callable[[str], None]


@dataclass(frozen=True)
class TestData:
    """What a model is measured on.

    tasks: critic rows, each pair in both orders.
    problems: policy rows.
    template: name of the critic's template, for matches.
    unjudged: policy rows of kinds of question that no critic row asks (`data_source` ends in `_unjudged`).
    kinds: the kind of question of each problem, by its id, where the rows have kinds.
    """

    __test__ = False  # not a test class, whatever pytest makes of the name

    tasks: list[JudgeTask]
    problems: list[Problem]
    template: str
    unjudged: list[Problem] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)


@dataclass
class Evaluation:
    """The results of one evaluation."""

    metrics: dict[str, Estimate] = field(default_factory=dict)
    judgements: list[Judgement] = field(default_factory=list)
    pools: list[Pool] = field(default_factory=list)
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    bills: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def load_test_data(paths: Sequence[Path]) -> TestData:
    """Read the test rows from Parquet files and folders (searched recursively for `*.parquet`).

    Rows of other splits are left out.

    Raises:
        FileNotFoundError: no file. ValueError: a broken row (named), no critic rows, no policy rows, several templates.
    """
    files = [file for path in paths for file in (path.rglob("*.parquet") if path.is_dir() else [path])]
    tasks, templates, kinds = [], set(), {}
    problems: list[Problem] = []
    unjudged: list[Problem] = []
    for place, row in read_rows(set(files)):
        if row["extra_info"].get("split") != "test":
            continue
        try:
            if row["data_source"].startswith("critic/"):
                tasks.append(task_from_row(row))
                templates.add(row["extra_info"]["template"])
            elif row["data_source"].startswith("policy/"):
                problem = problem_from_row(row)
                (unjudged if row["data_source"].endswith("_unjudged") else problems).append(problem)
                if kind := json.loads(row["extra_info"].get("meta") or "{}").get("kind"):
                    kinds[problem.problem_id] = kind
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{place}: {error}") from error
    named = ", ".join(str(path) for path in paths)
    for rows, kind in ((tasks, "critic"), (problems, "policy")):
        if not rows:
            raise ValueError(f"no {kind} row with split 'test' in {named}: prepare the demo's data again")
    if len(templates) != 1:
        raise ValueError(f"the critic rows in {named} use the templates {sorted(map(str, templates))}; one is expected")
    return TestData(tasks, problems, templates.pop(), unjudged, kinds)


def evaluate(
    generator: Generator,
    data: TestData,
    *,
    seed: int = 0,
    max_tokens: int = MAX_TOKENS,
    other_pools: Sequence[Pool] = (),
    progress: Progress = lambda line: None,
) -> Evaluation:
    """Measure one model.

    Metrics: `critic/*` (see `pairwise_metrics`), `policy/greedy`, `policy/sampled` (one sample at temperature 1),
    `policy/*_format_rate`, `policy/greedy/KIND` for each kind of question, `policy/greedy/unjudged` for all that were
    never judged, `best_of_8/{knock_out, one_sample, majority, oracle}` with the paired differences
    `best_of_8/knock_out_minus_{one_sample, majority}` and `best_of_8/knock_out_minus_greedy`.

    Args:
        seed: of all samples, brackets and bootstrap resamples.
        max_tokens: of each answer.
        other_pools: candidates of another policy for the same problems; this model's critic chooses among them too
            (`best_of_8_other/*`).
    """
    found = Evaluation()
    clock = _Clock(found.seconds, progress)

    once = Sampling(max_tokens=max_tokens)
    found.judgements = judge(generator, data.tasks, once)
    _refuse_failures([j.error for j in found.judgements], "judgements")
    found.metrics |= {f"critic/{k}": v for k, v in pairwise_metrics(found.judgements, seed=seed).items()}
    clock.lap("critic", f"{len(data.tasks)} judgements, accuracy {found.metrics['critic/accuracy']}")

    asked = [*data.problems, *data.unjudged]
    answers = generator.generate([GenerationRequest(problem.messages, once) for problem in asked])
    _refuse_failures([answer.error for answer in answers], "greedy answers")
    correct = _right(asked, answers)
    judged = len(data.problems)
    clusters, right = ClusterBootstrap([problem.image_blake3 for problem in data.problems], seed=seed), correct[:judged]
    found.metrics["policy/greedy"] = clusters.rate(right)
    formed = [find_box(answer.text).well_formed for answer in answers[:judged]]
    found.metrics["policy/greedy_format_rate"] = clusters.rate(formed)
    parts = {"unjudged": [place >= judged for place in range(len(asked))]} if data.unjudged else {}
    parts |= {
        kind: [data.kinds.get(problem.problem_id) == kind for problem in asked]
        for kind in sorted({*data.kinds.values()})
    }
    for name, member in parts.items():
        part = ClusterBootstrap([problem.image_blake3 for problem in compress(asked, member)], seed=seed)
        found.metrics[f"policy/greedy/{name}"] = part.rate([*compress(correct, member)])
    clock.lap("policy, greedy", f"{len(answers)} answers, accuracy {found.metrics['policy/greedy']}")

    sampling = Sampling(temperature=1.0, max_tokens=max_tokens, n=N_CANDIDATES, seed=seed)
    found.pools = sample_pools(generator, data.problems, sampling)
    texts = [(pool.problem.image_blake3, c) for pool in found.pools for c in pool.candidates]
    samples = ClusterBootstrap([image for image, _ in texts], seed=seed)
    found.metrics["policy/sampled"] = samples.rate([c.correct for _, c in texts])
    found.metrics["policy/sampled_format_rate"] = samples.rate([find_box(c.text).well_formed for _, c in texts])
    clock.lap("policy, sampled", f"{len(texts)} answers, accuracy {found.metrics['policy/sampled']}")

    own = _best_of_n(generator, data, found.pools, once, seed, "best_of_8", found)
    found.metrics["best_of_8/knock_out_minus_greedy"] = clusters.difference(
        own.shares["knock_out"][N_CANDIDATES], right
    )
    clock.lap("self-critique", f"{_cost(found.bills['best_of_8'])}, {found.metrics['best_of_8/knock_out']}")
    if other_pools:
        _best_of_n(generator, data, other_pools, once, seed, "best_of_8_other", found)
        clock.lap(
            "critique of another policy",
            f"{_cost(found.bills['best_of_8_other'])}, {found.metrics['best_of_8_other/knock_out']}",
        )
    return found


def write_results(found: Evaluation, out: Path, settings: dict[str, Any]) -> None:
    """Write `judgements.jsonl` and `candidates.jsonl` next to `out`, then `out` (JSON), each complete or not at all."""
    write_json_lines(out.parent / "judgements.jsonl", (judgement.record() for judgement in found.judgements))
    save_pools(found.pools, out.parent / "candidates.jsonl")
    result = {
        **settings,
        "metrics": {name: estimate.as_dict() for name, estimate in found.metrics.items()},
        "curves": found.curves,
        "bills": found.bills,
        "seconds": {stage: round(seconds, 2) for stage, seconds in found.seconds.items()},
    }
    write_json(out, result)


def run(
    model: Path,
    data: Sequence[Path],
    out: Path,
    *,
    seed: int = 0,
    max_tokens: int = MAX_TOKENS,
    tag: str = "",
    candidates: Path | None = None,
    progress: Progress = lambda line: None,
) -> Evaluation:
    """Load the data, start the engine, evaluate, write. Input is checked before the engine starts."""
    test = load_test_data(data)
    other_pools = load_pools(candidates, test.problems) if candidates else []
    from recipe.critic_r1.judging.vllm_engine import VllmEngine

    started = time.monotonic()
    engine = VllmEngine(model)
    ready = time.monotonic() - started
    progress(f"engine ready after {ready:.1f} s")
    found = evaluate(engine, test, seed=seed, max_tokens=max_tokens, other_pools=other_pools, progress=progress)
    found.seconds = {"engine start": ready, **found.seconds}
    write_results(
        found,
        out,
        {
            "tag": tag,
            "model": str(model),
            "seed": seed,
            "max_tokens": max_tokens,
            "n_candidates": N_CANDIDATES,
            "test_pairs": len({task.pair_id for task in test.tasks}),
            "test_problems": len(test.problems),
        },
    )
    return found


def _best_of_n(
    generator: Generator,
    data: TestData,
    pools: Sequence[Pool],
    sampling: Sampling,
    seed: int,
    name: str,
    found: Evaluation,
) -> BestOfNCurve:
    referee = MatchJudge(generator, critic_prompt(get_template(data.template)), sampling, seed=seed)
    result = measure(pools, knock_out(pools, referee, seed=seed), seed=seed)
    _refuse_failures(["failed"] * referee.bill.failed, "judgements in matches")
    found.bills[name] = asdict(referee.bill)
    found.curves |= {f"{name}/{curve.selector}": curve.as_records() for curve in result.curves()}
    for selector in result.shares:
        found.metrics[f"{name}/{selector}"] = result.at(selector, N_CANDIDATES)
    for other in ("one_sample", "majority"):
        found.metrics[f"{name}/knock_out_minus_{other}"] = result.gain("knock_out", other, N_CANDIDATES)
    return result


def _right(problems: Sequence[Problem], answers: Sequence[Generation]) -> list[bool]:
    return [exact_match(final_answer(g.text), p.ground_truth) for p, g in zip(problems, answers, strict=True)]


def _cost(bill: dict[str, int]) -> str:
    return f"{bill['matches']} matches, {bill['judgements']} judgements"


def _refuse_failures(errors: Sequence[str | None], what: str) -> None:
    """An engine in this process has no reason to fail on single prompts: metrics over the rest would be wrong."""
    failed = [error for error in errors if error is not None]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(errors)} {what} failed, first: {failed[0]}")


class _Clock:
    """Seconds per stage, reported as they pass."""

    def __init__(self, seconds: dict[str, float], progress: Progress) -> None:
        self._seconds, self._progress, self._last = seconds, progress, time.monotonic()

    def lap(self, stage: str, line: str) -> None:
        now = time.monotonic()
        self._seconds[stage] = now - self._last
        self._last = now
        self._progress(f"{stage}: {line} ({self._seconds[stage]:.1f} s)")


def main(
    model: Annotated[Path, typer.Option(help="Hugging Face model folder.")],
    data: Annotated[list[Path], typer.Option(help="Parquet file, or folder of them. Repeatable.")],
    out: Annotated[Path, typer.Option(help="Result file (JSON).")],
    seed: Annotated[int, typer.Option(help="Seed of samples, brackets and intervals.")] = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of an answer, in tokens.")] = MAX_TOKENS,
    tag: Annotated[str, typer.Option(help="Name of this evaluation in the result file.")] = "",
    candidates: Annotated[
        Path | None, typer.Option(help="candidates.jsonl of another model; this model's critic chooses among them too.")
    ] = None,
) -> None:
    """Evaluate a model of the demo on its held-out images."""
    try:
        run(
            model,
            data,
            out,
            seed=seed,
            max_tokens=max_tokens,
            tag=tag,
            candidates=candidates,
            progress=lambda line: print(line, flush=True),
        )
    except (ValueError, OSError) as error:
        raise SystemExit(f"evaluate: {error}") from error


if __name__ == "__main__":
    typer.run(main)
