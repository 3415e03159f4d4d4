"""`critic-r1 judge`, `compare` and `best-of-n`: a model against a served critic, from the command line.

The commands only connect: rows to requests, requests to a server, answers to figures. Every answer is kept in a journal
in the output folder, so the way out of any accident is to run the same command again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Column, Table

from data_prep.prompts import get_wording
from recipe.critic_r1.judging.benchmarks import official_metrics
from recipe.critic_r1.judging.comparison import compare, load_judgements
from recipe.critic_r1.judging.generation import Sampling
from recipe.critic_r1.judging.intervals import Estimate
from recipe.critic_r1.judging.journal import Journal, JournalBusyError, JournalFullError
from recipe.critic_r1.judging.metrics import category_metrics, length_metrics, pairwise_metrics
from recipe.critic_r1.judging.official import OfficialPrompt, load_prompt
from recipe.critic_r1.judging.openai_client import OpenAIGenerator, ServerRefusedError
from recipe.critic_r1.judging.pairwise import judge, read_rows, task_from_row
from recipe.critic_r1.self_critique.candidates import Shown, problem_from_row, sample_pools, save_pools
from recipe.critic_r1.self_critique.curves import measure
from recipe.critic_r1.self_critique.matches import MatchJudge, critic_prompt
from recipe.critic_r1.self_critique.selectors import Bracket, knock_out, weighted_knock_out
from recipe.critic_r1.self_critique.tables import round_robin, swiss
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

FURTHER_SELECTORS = ("weighted_knock_out", "swiss", "round_robin")
"""Tournaments that are played on request; the last two only up to a small N."""

FAULTS = (ValueError, OSError, RuntimeError, JournalBusyError, JournalFullError, ServerRefusedError)


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("judge")(judge_command)
    app.command("compare")(compare_command)
    app.command("best-of-n")(best_of_n_command)


def judge_command(
    data: Data,
    model: Model,
    base_url: BaseUrl,
    out: Out,
    api_key: ApiKey = "EMPTY",
    prompt: Annotated[
        str, typer.Option(help="r1: as prepared; official: the benchmark's own wording, settings and form of verdict.")
    ] = "r1",
    official_code: Annotated[
        Path | None, typer.Option(help="For --prompt official: a clone of the benchmark's repository.")
    ] = None,
    votes: Annotated[int, typer.Option(help="Answers per pair and order; the majority is the verdict.")] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="0 is greedy; several votes need more. Default: 0, or the benchmark's own.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Share of the probability mass that is kept. Default: 1, or the benchmark's.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest answer. Default: 2048, or the benchmark's own.")
    ] = None,
    verdicts: Annotated[
        str | None, typer.Option(help="strict, or lenient for models of others. Default: strict for r1.")
    ] = None,
    concurrency: Concurrency = 64,
    timeout: Timeout = 600.0,
    seed: Seed = 0,
) -> None:
    """Measure a critic on preference pairs, each in both orders."""
    try:
        rows = [row for _, row in _rows(data) if row["data_source"].startswith("critic/")]
        if not rows:
            raise ValueError(f"no critic rows in {', '.join(map(str, data))}: run `critic-r1 prepare` on the benchmark")
        tasks = [task_from_row(row) for row in rows]
        official = _official(prompt, official_code, {row["data_source"] for row in rows})
        verdicts = verdicts or ("lenient" if official else "strict")
        policy = _policy(verdicts)
        if official:
            if policy == "strict":
                raise ValueError(
                    "--verdicts strict reads our own form of a verdict, which --prompt official does not ask for"
                )
            tasks = [official.task(task) for task in tasks]
        given = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        sampling = replace(official.protocol.sampling if official else Sampling(), **chosen, n=votes, seed=seed)
        with (
            Journal(out / "answers.jsonl") as journal,
            OpenAIGenerator(
                model, base_url, api_key=api_key, journal=journal, concurrency=concurrency, timeout=timeout
            ) as generator,
        ):
            judgements = judge(generator, tasks, sampling, policy=policy, read=official.read if official else None)
        figures = {f"critic/{k}": v for k, v in pairwise_metrics(judgements, seed=seed).items()}
        figures |= {f"length/{k}": v for k, v in length_metrics(judgements, seed=seed).items()}
        figures |= {f"category/{k}": v for k, v in category_metrics(judgements, seed=seed).items()}
        figures |= {f"official/{k}": v for k, v in official_metrics(judgements, seed=seed).items()}
        if official:
            del figures["critic/format_rate"]  # of a form that was not asked for
        settings = {"model": model, "base_url": base_url, "prompt": prompt, "sampling": asdict(sampling),
                    "verdicts": verdicts}  # fmt: skip
        lines = [json.dumps(j.record(), ensure_ascii=False) for j in judgements]
        (out / "judgements.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        _write(out / "judge.json", figures, {**settings, "traffic": asdict(generator.traffic)})
    except FAULTS as error:
        raise _exit(error) from error
    _show(figures)
    _warn_of_failures(sum(not j.answered for j in judgements), len(judgements))


def compare_command(
    first: Annotated[Path, typer.Argument(help="The --out folder of one `critic-r1 judge`.")],
    second: Annotated[Path, typer.Argument(help="The folder of another on the same data.")],
    out: Annotated[Path | None, typer.Option(help="File for the figures as JSON.")] = None,
    seed: Seed = 0,
) -> None:
    """Compare two judge runs on the same items: second minus first, paired by picture, and McNemar's exact test."""
    try:
        result = compare(load_judgements(first), load_judgements(second), seed=seed)
        settings = [_settings(run) for run in (first, second)]
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            content = {"first": settings[0], "second": settings[1], "seed": seed, **result.as_dict()}
            out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except FAULTS as error:
        raise _exit(error) from error
    table = Table(Column("figure", overflow="fold"), "first", "second", "change", "95 % interval", "n")
    for name, change in result.figures.items():
        e = change.difference
        table.add_row(name, f"{change.first.value:.3f}", f"{change.second.value:.3f}", f"{e.value:+.3f}",
                      f"{e.low:+.3f} to {e.high:+.3f}", str(e.n))  # fmt: skip
    console = Console()
    for name in sorted({*settings[0], *settings[1]}):
        one, other = (run.get(name, "-") for run in settings)
        console.print(f"{name}: {one}" + ("" if one == other else f" and {other}"), highlight=False)
    console.print(table)
    console.print(
        f"{result.pairs} pairs compared, {result.unanswered} left out for failed requests. Right in every order shown:"
        f" {result.only_first} only in the first, {result.only_second} only in the second run; McNemar's exact test:"
        f" p = {result.p_value:.3g}.",
        highlight=False,
    )


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
        _write(out / "best_of_n.json", figures, {"model": model, "critic_model": critic_model or model, "n": n,
               "shown": shown, "wording": wording, "seed": seed, "small_n": small_n, "curves": curves,
               "bill": bill})  # fmt: skip
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


def _official(prompt: str, code: Path | None, sources: set[str]) -> OfficialPrompt | None:
    """The official prompt of the only benchmark in the data, None for our own."""
    if prompt == "official":
        if len(sources) > 1:
            raise ValueError(f"--prompt official takes one benchmark at a time, not {', '.join(sorted(sources))}")
        return load_prompt(sources.pop().removeprefix("critic/"), code)
    if prompt != "r1":
        raise ValueError(f"--prompt {prompt!r} is neither r1 nor official")
    if code is not None:
        raise ValueError("--official-code goes with --prompt official")
    return None


def _settings(run: Path) -> dict[str, Any]:
    """How a run was made, for the reader; empty where only its judgements are left."""
    path = run / "judge.json"
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: found[name] for name in ("model", "prompt", "verdicts", "sampling") if name in found}


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
