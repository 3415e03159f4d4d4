"""`critic-r1 best-of-n`: a served model chooses among its own answers.

Candidates are sampled once; every selector chooses among the same ones. Candidates and judgements are kept in a journal
in the output folder, so another selector, or a run that was stopped, costs only what is new.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from data_prep.files import write_json_lines
from data_prep.tasks.prompts import get_template
from recipe.critic_r1.cli.judge import show, write
from recipe.critic_r1.cli.options import (
    FAULTS,
    ApiKey,
    BaseUrl,
    Concurrency,
    ImageRoot,
    MaxTokens,
    Model,
    Out,
    Prefilled,
    Request,
    Seed,
    Shown,
    Template,
    Timeout,
    Verdicts,
    close,
    connect,
    is_prefilled,
    key_for,
    request_fields,
    tell,
)
from recipe.critic_r1.cli.output import claimed, ending, warn
from recipe.critic_r1.judging.generation import Generation, Sampling
from recipe.critic_r1.judging.intervals import Estimate
from recipe.critic_r1.judging.journal import Journal
from recipe.critic_r1.selection.candidates import Problem, sample_pools, save_pools
from recipe.critic_r1.selection.curves import measure
from recipe.critic_r1.selection.knock_out import Bracket, knock_out, weighted_knock_out
from recipe.critic_r1.selection.league import round_robin
from recipe.critic_r1.selection.matches import MatchJudge, critic_prompt
from recipe.critic_r1.selection.problems import read_problems, right_answer


class Selector(StrEnum):
    """Tournaments that are played on request; round robins only up to a small N."""

    WEIGHTED_KNOCK_OUT = "weighted_knock_out"
    ROUND_ROBIN = "round_robin"


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("best-of-n")(best_of_n_command)


def best_of_n_command(
    data: Annotated[
        list[str],
        typer.Argument(
            help="Questions: policy rows from `critic-r1 prepare` (Parquet), or JSONL, JSON or Parquet rows with"
            " `question`, `image` and `answer`."
        ),
    ],
    model: Model,
    base_url: BaseUrl,
    out: Out,
    api_key: ApiKey = "",
    n: Annotated[int, typer.Option(help="Candidates per question; a power of two.")] = 8,
    critic_model: Annotated[str, typer.Option(help="Model that judges the candidates. Default: --model.")] = "",
    critic_url: Annotated[str, typer.Option(help="Address of the critic's server. Default: --base-url.")] = "",
    shown: Shown = "response",
    template: Template = "critic",
    image_root: ImageRoot = None,
    instruct: Annotated[
        bool,
        typer.Option(help="Add the instruction to think and to box the answer to questions that are not policy rows."),
    ] = True,
    selector: Annotated[
        list[Selector] | None, typer.Option(help="Another tournament to play on the same candidates. Repeatable.")
    ] = None,
    small_n: Annotated[int, typer.Option(help="Largest N of round_robin; a power of two.")] = 16,
    temperature: Annotated[float, typer.Option(help="Sampling temperature of the candidates.")] = 1.0,
    max_tokens: MaxTokens = 2048,
    verdicts: Verdicts = "strict",
    prefilled: Prefilled = None,
    request: Request = None,
    concurrency: Concurrency = 64,
    timeout: Timeout = 600.0,
    seed: Seed = 0,
) -> None:
    """Let a model choose among its own answers by tournaments, and compare with one sample, majority and oracle."""
    lost: list[tuple[Problem, Generation]] = []
    bad_rows: list[str] = []
    try:
        if n < 1 or n & (n - 1):
            raise ValueError(f"--n {n} is not a power of two: take 2, 4, 8, ... 128")
        if small_n < 2 or small_n & (small_n - 1):
            raise ValueError(f"--small-n {small_n} is not a power of two: take 2, 4, 8, 16, ...")
        form = get_template(template)
        results = ("best_of_n.json", "candidates.jsonl", "unanswered.jsonl")
        with claimed(out, "best-of-n", results), Journal(out / "answers.jsonl") as journal:
            problems = read_problems(data, image_root or (), instruct=instruct, lost=bad_rows)
            client: dict[str, Any] = {"journal": journal, "concurrency": concurrency, "timeout": timeout,
                                      "request": request}  # fmt: skip
            critic_key = key_for(api_key, base_url, critic_url)
            with (
                connect(model, base_url, key=api_key, **client) as writer,
                connect(critic_model or model, critic_url or base_url, key=critic_key, **client) as critic,
            ):
                sampling = Sampling(temperature=temperature, max_tokens=max_tokens, n=n, seed=seed)
                pools = sample_pools(
                    writer, problems, sampling, shown=shown, is_correct=right_answer, lost=lost,
                    prefilled=is_prefilled(prefilled, model),
                )  # fmt: skip
                if not pools:
                    raise RuntimeError(f"no question was answered; the first, {_named(*lost[0])}")
                referee = MatchJudge(
                    critic,
                    critic_prompt(form),
                    Sampling(max_tokens=max_tokens),
                    parsing=verdicts,
                    prefilled=is_prefilled(prefilled, critic_model or model),
                    seed=seed,
                )
                brackets = knock_out(pools, referee, seed=seed)
                others: dict[str, list[Bracket]] = {}
                for chosen in dict.fromkeys(selector or ()):
                    if chosen is Selector.WEIGHTED_KNOCK_OUT:
                        others[chosen.value] = weighted_knock_out(pools, referee, seed=seed)
                    else:
                        others[chosen.value] = round_robin(pools, referee, seed=seed, largest=small_n)
                result = measure(pools, brackets, others=others, judge=referee, seed=seed)
            save_pools(pools, out / "candidates.jsonl")
            write_json_lines(out / "unanswered.jsonl", (_unanswered(*one) for one in lost))
            metrics: dict[str, Estimate] = {}
            for name, by_size in result.shares.items():
                metrics[f"best_of_{max(by_size)}/{name}"] = result.at(name, max(by_size))
            for name in ("knock_out", *others):
                size = max(result.shares[name])
                for base in ("one_sample", "majority"):
                    metrics[f"best_of_{size}/{name}_minus_{base}"] = result.gain(name, base, size)
            cut = sum(not candidate.finished for pool in pools for candidate in pool.candidates)
            settings = {
                "model": model,
                "critic_model": critic_model or model,
                "n": n,
                "sampling": asdict(sampling),
                "critic_sampling": asdict(referee.sampling),
                "verdicts": verdicts,
                "shown": shown,
                "template": template,
                "seed": seed,
                "small_n": small_n,
                "request": request_fields(request or ()),
                "questions": {"asked": len(problems), "unanswered": len(lost), "rows_lost": len(bad_rows)},
                "candidates_cut_off": cut,
                "traffic": {"policy": asdict(writer.traffic), "critic": asdict(critic.traffic)},
                "server": {"policy": writer.facts(), "critic": critic.facts()},
                "curves": {curve.selector: curve.as_records() for curve in result.curves()},
                "bill": asdict(referee.bill),
            }
            write(out / "best_of_n.json", metrics, settings)
    except FAULTS as error:
        raise ending(error) from error
    show(metrics)
    bill = referee.bill
    if cut or bill.cut_off:
        warn(f"cut off at the token limit: {cut} candidates and {bill.cut_off} judgements; raise --max-tokens")
    if bad_rows:
        warn(f"unusable rows, left out: {len(bad_rows)}; the first, {bad_rows[0]}")
    for one in lost[:3]:
        warn(f"no candidates for {_named(*one)}")
    if lost:
        warn(f"{len(lost)} of {len(problems)} questions have no candidates and are left out: see"
             f" {out / 'unanswered.jsonl'}")  # fmt: skip
    tell([writer, critic])
    reasons = Counter(found.failure for _, found in lost)
    failed = reasons.pop("failed", 0) + bill.failed
    unanswerable = Counter({str(reason): count for reason, count in reasons.items()})
    unanswerable["judgements"] += bill.unanswerable
    close(failed, +unanswerable, len(problems) + bill.judgements)


def _unanswered(problem: Problem, generation: Generation) -> dict[str, Any]:
    return {"problem_id": problem.problem_id, "place": problem.place, "question": problem.question,
            "failure": generation.failure, "error": generation.error}  # fmt: skip


def _named(problem: Problem, generation: Generation) -> str:
    return f"{problem.place or problem.problem_id}: {generation.error}"
