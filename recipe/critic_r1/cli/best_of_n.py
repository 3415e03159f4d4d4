"""`critic-r1 best-of-n`: a served model chooses among its own answers.

Candidates are drawn once; every selector chooses among the same ones. Candidates and judgements are kept in a journal
in the output folder, so another selector, or a run that was stopped, costs only what is new.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, cast

import typer

from data_prep.tasks.prompts import get_wording
from recipe.critic_r1.best_of_n.candidates import Shown, sample_pools, save_pools
from recipe.critic_r1.best_of_n.curves import measure
from recipe.critic_r1.best_of_n.knock_out import Bracket, knock_out, weighted_knock_out
from recipe.critic_r1.best_of_n.league import round_robin, swiss
from recipe.critic_r1.best_of_n.matches import MatchJudge, critic_prompt
from recipe.critic_r1.best_of_n.problems import read_problems, right_answer
from recipe.critic_r1.cli.judge import (
    FAULTS,
    ApiKey,
    BaseUrl,
    Concurrency,
    MaxTokens,
    Model,
    Out,
    Seed,
    Timeout,
    Verdicts,
    ending,
    parsing_of,
    show,
    warn_of_failures,
    write,
)
from recipe.critic_r1.judging.generation import Sampling
from recipe.critic_r1.judging.intervals import Estimate
from recipe.critic_r1.judging.journal import Journal
from recipe.critic_r1.judging.openai_client import OpenAIGenerator

FURTHER_SELECTORS = ("weighted_knock_out", "swiss", "round_robin")
"""Tournaments that are played on request; the last two only up to a small N."""


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("best-of-n")(best_of_n_command)


def best_of_n_command(
    data: Annotated[
        list[str], typer.Argument(help="Policy rows (Parquet), or rows with `question`, `image` and `answer` (JSONL).")
    ],
    model: Model,
    base_url: BaseUrl,
    out: Out,
    api_key: ApiKey = "EMPTY",
    n: Annotated[int, typer.Option(help="Candidates per question, a power of two.")] = 8,
    critic_model: Annotated[str, typer.Option(help="Another model as the critic; the policy itself when empty.")] = "",
    critic_url: Annotated[str, typer.Option(help="Its server; the policy's when empty.")] = "",
    shown: Annotated[str, typer.Option(help="What the critic sees: answer or response.")] = "response",
    wording: Annotated[str, typer.Option(help="Wording of the critic's prompt.")] = "critic",
    image_root: Annotated[list[str] | None, typer.Option(help="Folder or zip of the images. Repeatable.")] = None,
    instruct: Annotated[
        bool, typer.Option(help="Rows that are not ours get the instruction to think, then to box the answer.")
    ] = True,
    selector: Annotated[
        list[str] | None,
        typer.Option(help=f"A further tournament on the same candidates: {', '.join(FURTHER_SELECTORS)}. Repeatable."),
    ] = None,
    small_n: Annotated[int, typer.Option(help="Largest N of swiss and round_robin, a power of two.")] = 16,
    temperature: Annotated[float, typer.Option(help="Of the candidates.")] = 1.0,
    max_tokens: MaxTokens = 2048,
    verdicts: Verdicts = "strict",
    concurrency: Concurrency = 64,
    timeout: Timeout = 600.0,
    seed: Seed = 0,
) -> None:
    """Let a model choose among its own answers by tournaments, against one sample, majority and oracle."""
    try:
        if n < 1 or n & (n - 1):
            raise ValueError(f"--n {n} is no power of two: take 2, 4, 8, ... 128")
        if shown not in ("answer", "response"):
            raise ValueError(f"--shown {shown!r} is neither answer nor response")
        if small_n < 2 or small_n & (small_n - 1):
            raise ValueError(f"--small-n {small_n} is no power of two: take 2, 4, 8, 16, ...")
        if unknown := sorted(set(selector or ()) - set(FURTHER_SELECTORS)):
            raise ValueError(f"--selector {unknown[0]!r} is none of {', '.join(FURTHER_SELECTORS)}")
        parsing, form = parsing_of(verdicts), get_wording(wording)
        problems = read_problems(data, image_root or (), instruct=instruct)
        with Journal(out / "answers.jsonl") as journal:
            client: dict[str, Any] = {"api_key": api_key, "journal": journal, "concurrency": concurrency,
                                      "timeout": timeout}  # fmt: skip
            with (
                OpenAIGenerator(model, base_url, **client) as writer,
                OpenAIGenerator(critic_model or model, critic_url or base_url, **client) as critic,
            ):
                sampling = Sampling(temperature=temperature, max_tokens=max_tokens, n=n, seed=seed)
                pools = sample_pools(writer, problems, sampling, shown=cast(Shown, shown), is_correct=right_answer)
                save_pools(pools, out / "candidates.jsonl")
                referee = MatchJudge(
                    critic, critic_prompt(form), Sampling(max_tokens=max_tokens), parsing=parsing, seed=seed
                )
                brackets = knock_out(pools, referee, seed=seed)
                others: dict[str, list[Bracket]] = {}
                for name in dict.fromkeys(selector or ()):
                    if name == "weighted_knock_out":
                        others[name] = weighted_knock_out(pools, referee, seed=seed)
                    else:
                        table = swiss if name == "swiss" else round_robin
                        others[name] = table(pools, referee, seed=seed, largest=small_n)
                result = measure(pools, brackets, others=others, judge=referee, seed=seed)
        figures: dict[str, Estimate] = {}
        for name, by_size in result.shares.items():
            figures[f"best_of_{max(by_size)}/{name}"] = result.at(name, max(by_size))
        for name in ("knock_out", *others):
            size = max(result.shares[name])
            for base in ("one_sample", "majority"):
                figures[f"best_of_{size}/{name}_minus_{base}"] = result.gain(name, base, size)
        curves = {curve.selector: curve.as_records() for curve in result.curves()}
        bill = asdict(referee.bill)
        settings = {
            "model": model,
            "critic_model": critic_model or model,
            "n": n,
            "sampling": asdict(sampling),
            "critic_sampling": asdict(referee.sampling),
            "verdicts": verdicts,
            "shown": shown,
            "wording": wording,
            "seed": seed,
            "small_n": small_n,
            "traffic": {"policy": asdict(writer.traffic), "critic": asdict(critic.traffic)},
        }
        write(out / "best_of_n.json", figures, {**settings, "curves": curves, "bill": bill})
    except FAULTS as error:
        raise ending(error) from error
    show(figures)
    warn_of_failures(referee.bill.failed, referee.bill.judgements)
