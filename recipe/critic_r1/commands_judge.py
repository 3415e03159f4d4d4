"""`critic-r1 judge` and `critic-r1 best-of-n`: a model against a served critic, from the command line.

The commands only connect: rows to requests, requests to a server, answers to figures. Every answer is kept in a journal
in the output folder, so the way out of any accident is to run the same command again.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from data_prep.prompts import get_wording
from recipe.critic_r1.judging.benchmarks import official_metrics
from recipe.critic_r1.judging.generation import Sampling
from recipe.critic_r1.judging.intervals import Estimate
from recipe.critic_r1.judging.journal import Journal, JournalBusyError, JournalFullError
from recipe.critic_r1.judging.metrics import pairwise_metrics
from recipe.critic_r1.judging.openai_client import OpenAIGenerator, ServerRefusedError
from recipe.critic_r1.judging.pairwise import judge, read_rows, task_from_row
from recipe.critic_r1.self_critique.candidates import Shown, problem_from_row, sample_pools, save_pools
from recipe.critic_r1.self_critique.curves import measure
from recipe.critic_r1.self_critique.matches import MatchJudge, critic_prompt
from recipe.critic_r1.self_critique.selectors import knock_out
from reward_fns.verdict import Policy

Data = Annotated[list[Path], typer.Argument(help="Parquet files or folders from `critic-r1 prepare`.")]
Model = Annotated[str, typer.Option(help="Name under which the server knows the model.")]
BaseUrl = Annotated[str, typer.Option(help="Address of the server, up to and including /v1.")]
Out = Annotated[Path, typer.Option(help="Folder for results and the journal of answers.")]
ApiKey = Annotated[str, typer.Option(envvar="OPENAI_API_KEY", help="Key; any text where none is needed.")]
Concurrency = Annotated[int, typer.Option(help="Most requests in flight.")]
Timeout = Annotated[float, typer.Option(help="Seconds for one attempt.")]
MaxTokens = Annotated[int, typer.Option(help="Longest answer.")]
Seed = Annotated[int, typer.Option(help="Of samples, brackets and intervals.")]
Verdicts = Annotated[str, typer.Option(help="How verdicts are read: strict, or lenient for models of others.")]

FAULTS = (ValueError, OSError, RuntimeError, JournalBusyError, JournalFullError, ServerRefusedError)


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("judge")(judge_command)
    app.command("best-of-n")(best_of_n_command)


def judge_command(
    data: Data,
    model: Model,
    base_url: BaseUrl,
    out: Out,
    api_key: ApiKey = "EMPTY",
    votes: Annotated[int, typer.Option(help="Answers per pair and order; the majority is the verdict.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 is greedy; several votes need more.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Share of the probability mass that is kept.")] = 1.0,
    max_tokens: MaxTokens = 2048,
    verdicts: Verdicts = "strict",
    concurrency: Concurrency = 64,
    timeout: Timeout = 600.0,
    seed: Seed = 0,
) -> None:
    """Measure a critic on preference pairs, each in both orders."""
    try:
        tasks = [task_from_row(row) for _, row in _rows(data) if row["data_source"].startswith("critic/")]
        if not tasks:
            raise ValueError(f"no critic rows in {', '.join(map(str, data))}: run `critic-r1 prepare` on the benchmark")
        sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, n=votes, seed=seed)
        policy = _policy(verdicts)
        with (
            Journal(out / "answers.jsonl") as journal,
            OpenAIGenerator(
                model, base_url, api_key=api_key, journal=journal, concurrency=concurrency, timeout=timeout
            ) as generator,
        ):
            judgements = judge(generator, tasks, sampling, policy=policy)
        figures = {f"critic/{k}": v for k, v in pairwise_metrics(judgements, seed=seed).items()}
        figures |= {f"official/{k}": v for k, v in official_metrics(judgements, seed=seed).items()}
        settings = {"model": model, "base_url": base_url, "sampling": asdict(sampling), "verdicts": verdicts}
        lines = [json.dumps(j.record(), ensure_ascii=False) for j in judgements]
        (out / "judgements.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        _write(out / "judge.json", figures, {**settings, "traffic": asdict(generator.traffic)})
    except FAULTS as error:
        raise _exit(error) from error
    _show(figures)
    _warn_of_failures(sum(not j.answered for j in judgements), len(judgements))


def best_of_n_command(
    data: Data,
    model: Model,
    base_url: BaseUrl,
    out: Out,
    api_key: ApiKey = "EMPTY",
    n: Annotated[int, typer.Option(help="Candidates per question, a power of two.")] = 8,
    critic_model: Annotated[str, typer.Option(help="Another model as the critic; the policy itself when empty.")] = "",
    shown: Annotated[str, typer.Option(help="What the critic sees: answer or response.")] = "response",
    wording: Annotated[str, typer.Option(help="Wording of the critic's prompt.")] = "critic",
    temperature: Annotated[float, typer.Option(help="Of the candidates.")] = 1.0,
    max_tokens: MaxTokens = 2048,
    verdicts: Verdicts = "strict",
    concurrency: Concurrency = 64,
    timeout: Timeout = 600.0,
    seed: Seed = 0,
) -> None:
    """Let a model choose among its own answers by knock-out, against one sample, majority and oracle."""
    try:
        if n < 1 or n & (n - 1):
            raise ValueError(f"--n {n} is no power of two: take 2, 4, 8, ... 128")
        if shown not in ("answer", "response"):
            raise ValueError(f"--shown {shown!r} is neither answer nor response")
        policy, form = _policy(verdicts), get_wording(wording)
        problems = [problem_from_row(row) for _, row in _rows(data) if row["data_source"].startswith("policy/")]
        if not problems:
            raise ValueError(f"no policy rows in {', '.join(map(str, data))}")
        with Journal(out / "answers.jsonl") as journal:
            settings: dict[str, Any] = {"api_key": api_key, "journal": journal, "concurrency": concurrency,
                                        "timeout": timeout}  # fmt: skip
            with (
                OpenAIGenerator(model, base_url, **settings) as writer,
                OpenAIGenerator(critic_model or model, base_url, **settings) as critic,
            ):
                sampling = Sampling(temperature=temperature, max_tokens=max_tokens, n=n, seed=seed)
                pools = sample_pools(writer, problems, sampling, shown=cast(Shown, shown))
                save_pools(pools, out / "candidates.jsonl")
                referee = MatchJudge(
                    critic, critic_prompt(form), Sampling(max_tokens=max_tokens), policy=policy, seed=seed
                )
                result = measure(pools, knock_out(pools, referee, seed=seed), seed=seed)
        figures = {f"best_of_{n}/{selector}": result.at(selector, n) for selector in result.shares}
        for other in ("one_sample", "majority"):
            figures[f"best_of_{n}/knock_out_minus_{other}"] = result.gain("knock_out", other, n)
        curves = {curve.selector: curve.as_records() for curve in result.curves()}
        bill = asdict(referee.bill)
        _write(out / "best_of_n.json", figures, {"model": model, "critic_model": critic_model or model, "n": n,
               "shown": shown, "wording": wording, "seed": seed, "curves": curves, "bill": bill})  # fmt: skip
    except FAULTS as error:
        raise _exit(error) from error
    _show(figures)
    _warn_of_failures(referee.bill.failed, referee.bill.judgements)


def _rows(paths: list[Path]) -> list[tuple[str, dict[str, Any]]]:
    return read_rows({file for path in paths for file in (path.rglob("*.parquet") if path.is_dir() else [path])})


def _policy(verdicts: str) -> Policy:
    if verdicts not in ("strict", "lenient"):
        raise ValueError(f"--verdicts {verdicts!r} is neither strict nor lenient")
    return cast(Policy, verdicts)


def _write(path: Path, figures: dict[str, Estimate], settings: dict[str, Any]) -> None:
    content = {**settings, "metrics": {name: estimate.as_dict() for name, estimate in figures.items()}}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _show(figures: dict[str, Estimate]) -> None:
    table = Table("figure", "value", "95 % interval", "n")
    for name, e in figures.items():
        value, interval = ("-", "-") if e.value is None else (f"{e.value:.3f}", f"{e.low:.3f} to {e.high:.3f}")
        table.add_row(name, value, interval, str(e.n))
    Console().print(table)


def _warn_of_failures(failed: int, asked: int) -> None:
    """Figures over what was answered are no figures of the benchmark: the exit code says so."""
    if failed:
        typer.echo(
            f"{failed} of {asked} requests failed: run the same command again; answers so far are kept", err=True
        )
        raise typer.Exit(1)


def _exit(error: BaseException) -> typer.Exit:
    typer.echo(f"critic-r1: {error}", err=True)
    return typer.Exit(2)
