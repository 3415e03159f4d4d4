"""`critic-r1 serve`, `judge` and `compare`: a critic behind an address, measured on pairs.

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

from data_prep.sources.registry import NAMES
from recipe.critic_r1.judging.benchmarks import BENCHMARKS, benchmark_name, prepare_benchmark
from recipe.critic_r1.judging.comparison import compare, load_judgements
from recipe.critic_r1.judging.generation import Sampling
from recipe.critic_r1.judging.intervals import Estimate
from recipe.critic_r1.judging.journal import Journal, JournalBusyError, JournalFullError
from recipe.critic_r1.judging.metrics import category_metrics, length_metrics, pairwise_metrics
from recipe.critic_r1.judging.official import OfficialPrompt, load_prompt
from recipe.critic_r1.judging.official_metrics import official_metrics
from recipe.critic_r1.judging.openai_client import OpenAIGenerator, ServerRefusedError
from recipe.critic_r1.judging.pairwise import judge, read_rows, task_from_row
from reward_fns.verdict import Parsing

Benchmark = Annotated[
    list[str],
    typer.Argument(help=f"{', '.join(BENCHMARKS)} with --input; or Parquet files or folders from `critic-r1 prepare`."),
]
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
    app.command("compare")(compare_command)
    app.command("serve", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve_command)


def serve_command(
    context: typer.Context, model: Annotated[str, typer.Argument(help="Hugging Face folder of a model.")]
) -> None:
    """`vllm serve MODEL`, with settings for a CPU where vLLM is built for one; all options of `vllm serve` serve."""
    from recipe.critic_r1.judging.serve import serve

    if model.startswith(("/", ".", "~")) and not Path(model).expanduser().is_dir():
        raise ending(FileNotFoundError(f"{model} is not a folder: give a model folder, or a Hub id ORG/NAME"))
    serve(model, context.args)


def judge_command(
    data: Benchmark,
    model: Model,
    base_url: BaseUrl,
    out: Out,
    api_key: ApiKey = "EMPTY",
    input: Annotated[list[str] | None, typer.Option(help="The benchmark's own files, or a hub id. Repeatable.")] = None,
    image_root: Annotated[list[str] | None, typer.Option(help="Folder or zip of its images. Repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(help="Judge so many records of the benchmark.")] = None,
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
        name = benchmark_name(data)
        if name is None and (input or image_root or limit):
            raise ValueError(f"--input, --image-root and --limit go with the name of a benchmark: {', '.join(NAMES)}")
        prepared = prepare_benchmark(name, input or (), image_root or (), out / "tasks", limit=limit) if name else None
        rows = _critic_rows([prepared.folder] if prepared else [Path(path) for path in data])
        tasks = [task_from_row(row) for row in rows]
        official = _official(prompt, official_code, {row["data_source"] for row in rows})
        verdicts = verdicts or ("lenient" if official else "strict")
        parsing = parsing_of(verdicts)
        if official:
            if parsing == "strict":
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
            judgements = judge(generator, tasks, sampling, parsing=parsing, read=official.read if official else None)
        figures = {f"critic/{k}": v for k, v in pairwise_metrics(judgements, seed=seed).items()}
        figures |= {f"length/{k}": v for k, v in length_metrics(judgements, seed=seed).items()}
        figures |= {f"category/{k}": v for k, v in category_metrics(judgements, seed=seed).items()}
        figures |= {f"official/{k}": v for k, v in official_metrics(judgements, seed=seed).items()}
        if official:
            del figures["critic/format_rate"]  # of a form that was not asked for
        settings: dict[str, Any] = {"model": model, "base_url": base_url, "benchmark": name, "prompt": prompt,
                                    "sampling": asdict(sampling), "verdicts": verdicts}  # fmt: skip
        if prepared:
            settings |= {"records": prepared.records, "records_lost": prepared.lost}
        else:
            settings["data"] = [str(Path(path).resolve()) for path in data]  # where a report finds the images
        lines = [json.dumps(j.record(), ensure_ascii=False) for j in judgements]
        (out / "judgements.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        write(out / "judge.json", figures, {**settings, "traffic": asdict(generator.traffic)})
    except FAULTS as error:
        raise ending(error) from error
    show(figures)
    if prepared and prepared.lost:
        reasons = ", ".join(f"{n} {reason}" for reason, n in prepared.lost.items())
        typer.echo(f"of {prepared.records} records some gave no task ({reasons}): the figures are about the rest, see"
                   f" {prepared.folder / 'rejected.jsonl'}", err=True)  # fmt: skip
    warn_of_failures(sum(not j.answered for j in judgements), len(judgements))


def compare_command(
    first: Annotated[Path, typer.Argument(help="The --out folder of one `critic-r1 judge`.")],
    second: Annotated[Path, typer.Argument(help="The folder of another on the same data.")],
    out: Annotated[Path | None, typer.Option(help="File for the figures as JSON.")] = None,
    seed: Seed = 0,
) -> None:
    """Compare two judge runs on the same items: second minus first, paired by image, and McNemar's exact test."""
    try:
        result = compare(load_judgements(first), load_judgements(second), seed=seed)
        settings = [_settings(run) for run in (first, second)]
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            content = {"first": settings[0], "second": settings[1], "seed": seed, **result.as_dict()}
            out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except FAULTS as error:
        raise ending(error) from error
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


def _critic_rows(paths: list[Path]) -> list[dict[str, Any]]:
    """The rows that are put to a critic.

    Raises:
        ValueError: there is none.
    """
    files = {file for path in paths for file in (path.rglob("*.parquet") if path.is_dir() else [path])}
    rows = [row for _, row in read_rows(files) if row["data_source"].startswith("critic/")]
    if not rows:
        raise ValueError(f"no critic rows in {', '.join(map(str, paths))}: run `critic-r1 prepare` on the benchmark")
    return rows


def parsing_of(verdicts: str) -> Parsing:
    """How verdicts are read, by the option's value."""
    if verdicts not in ("strict", "lenient"):
        raise ValueError(f"--verdicts {verdicts!r} is neither strict nor lenient")
    return cast(Parsing, verdicts)


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


def write(path: Path, figures: dict[str, Estimate], settings: dict[str, Any]) -> None:
    """Settings and figures as JSON."""
    content = {**settings, "metrics": {name: estimate.as_dict() for name, estimate in figures.items()}}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def show(figures: dict[str, Estimate]) -> None:
    """Figures as a table."""
    table = Table("figure", "value", "95 % interval", "n")
    for name, e in figures.items():
        value, interval = ("-", "-") if e.value is None else (f"{e.value:.3f}", f"{e.low:.3f} to {e.high:.3f}")
        table.add_row(name, value, interval, str(e.n))
    Console().print(table)


def warn_of_failures(failed: int, asked: int) -> None:
    """Figures over what was answered are no figures of the benchmark: the exit code says so."""
    if failed:
        typer.echo(
            f"{failed} of {asked} requests failed: run the same command again; answers so far are kept", err=True
        )
        raise typer.Exit(1)


def ending(error: BaseException) -> typer.Exit:
    """What was wrong as one line and exit code 2."""
    typer.echo(f"critic-r1: {error}", err=True)
    return typer.Exit(2)
