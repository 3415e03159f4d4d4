"""`critic-r1 serve`, `judge` and `compare`: serve a critic and measure it on pairs.

The commands only connect: rows to requests, requests to a server, answers to metrics. Every answer is kept in a journal
in the output folder, so the way out of any accident is to run the same command again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Column, Table

from data_prep.files import refuse_foreign_file, write_json, write_json_lines
from data_prep.sources.registry import NAMES
from recipe.critic_r1.cli.options import (
    FAULTS,
    ApiKey,
    BaseUrl,
    Concurrency,
    Model,
    Out,
    Prefilled,
    Request,
    Seed,
    Timeout,
    close,
    connect,
    is_prefilled,
    request_fields,
    tell,
)
from recipe.critic_r1.cli.output import cell, claimed, console, ending, say, warn
from recipe.critic_r1.judging.benchmarks import BENCHMARKS, benchmark_name, prepare_benchmark
from recipe.critic_r1.judging.comparison import compare, load_judgements
from recipe.critic_r1.judging.generation import Sampling
from recipe.critic_r1.judging.intervals import Estimate
from recipe.critic_r1.judging.journal import Journal
from recipe.critic_r1.judging.metrics import category_metrics, length_metrics, pairwise_metrics
from recipe.critic_r1.judging.official import OfficialPrompt, load_prompt
from recipe.critic_r1.judging.official_metrics import official_metrics
from recipe.critic_r1.judging.pairwise import (
    REFUSED,
    REQUEST_FAILED,
    Judgement,
    JudgeTask,
    judge,
    read_rows,
    task_from_row,
)
from recipe.critic_r1.judging.suite import METRICS, Entry, read_suite, rows, run_suite
from recipe.critic_r1.redaction import redacted

Benchmark = Annotated[
    list[str],
    typer.Argument(
        help=f"A benchmark by name ({', '.join(BENCHMARKS)}), with its files as --input; Parquet files or folders"
        " written by `critic-r1 prepare`; or a suite of several benchmarks, SUITE.yaml."
    ),
]


MOST_NAMED = 20
"""Bad rows that the result file names; all are counted."""


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("judge")(judge_command)
    app.command("compare")(compare_command)
    app.command("serve", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve_command)


def serve_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Model folder in Hugging Face format, or a Hub id.")],
) -> None:
    """Serve a model by `vllm serve`, with suitable settings for the CPU build of vLLM.

    All options of `vllm serve` are accepted. The server listens on 127.0.0.1 unless --host says otherwise; on any
    other address it wants a key (--api-key, or $VLLM_API_KEY).
    """
    from recipe.critic_r1.judging.serve import serve

    if model.startswith(("/", ".", "~")) and not Path(model).expanduser().is_dir():
        raise ending(FileNotFoundError(f"{model} is not a folder: give a model folder, or a Hub id ORG/NAME"))
    try:
        serve(model, context.args)
    except ValueError as error:
        raise ending(error) from error


def judge_command(
    data: Benchmark,
    model: Model,
    base_url: BaseUrl,
    out: Out,
    api_key: ApiKey = "",
    input: Annotated[
        list[str] | None, typer.Option(help="Files of the benchmark as published, or a Hub id. Repeatable.")
    ] = None,
    image_root: Annotated[
        list[str] | None, typer.Option(help="Folder or zip file with the benchmark's images. Repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Judge at most this many records of the benchmark.")] = None,
    frames: Annotated[
        int, typer.Option(help="Number of frames, evenly spread, to show of each video of the benchmark.")
    ] = 0,
    prompt: Annotated[
        Literal["r1", "official"],
        typer.Option(
            help="r1: the prompt that the data was prepared with. official: the benchmark's own prompt, sampling"
            " settings and form of verdict."
        ),
    ] = "r1",
    official_code: Annotated[
        Path | None, typer.Option(help="Clone of the benchmark's repository, for --prompt official.")
    ] = None,
    votes: Annotated[int, typer.Option(help="Answers to sample per pair and order; the majority is the verdict.")] = 1,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Sampling temperature; 0 is greedy, several votes need more. Default: 0, or the benchmark's own.",
            show_default=False,
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Nucleus sampling threshold. Default: 1, or the benchmark's own.", show_default=False),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Maximum length of an answer in tokens, thoughts included. Default: 2048, or the benchmark's own.",
            show_default=False,
        ),
    ] = None,
    verdicts: Annotated[
        Literal["strict", "lenient"] | None,
        typer.Option(
            help="How verdicts are read: strict accepts \\boxed{1} after the thoughts; lenient also accepts the forms"
            " and think tags of third-party models. Default: strict, or lenient for --prompt official.",
            show_default=False,
        ),
    ] = None,
    prefilled: Prefilled = None,
    request: Request = None,
    concurrency: Concurrency = 64,
    timeout: Timeout = 600.0,
    seed: Seed = 0,
) -> None:
    """Measure a served critic on preference pairs, each judged in both orders."""
    if len(data) == 1 and data[0].endswith((".yaml", ".yml")):
        given = {
            k: v for k, v in locals().items() if k not in ("data", "out", "input", "image_root", "limit", "frames")
        }
        _judge_suite(Path(data[0]), out, given, alone=not (input or image_root or limit or frames))
        return
    try:
        name = benchmark_name(data)
        if name is None and (input or image_root or limit or frames):
            options = "--input, --image-root, --limit and --frames"
            raise ValueError(f"{options} need the name of a benchmark: {', '.join(NAMES)}")
        with claimed(out, "judge", ("judge.json", "judgements.jsonl")):
            prepared = (
                prepare_benchmark(name, input or (), image_root or (), out / "tasks", limit=limit, frames=frames)
                if name
                else None
            )
            tasks, sources, bad_rows = _critic_tasks([prepared.folder] if prepared else [Path(path) for path in data])
            official = _official(prompt, official_code, sources)
            parsing = verdicts or ("lenient" if official else "strict")
            if official:
                if parsing == "strict":
                    raise ValueError("--verdicts strict reads \\boxed{}, which --prompt official does not ask for")
                tasks = [official.task(task) for task in tasks]
            given = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
            chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
            sampling = replace(official.protocol.sampling if official else Sampling(), **chosen, n=votes, seed=seed)
            thinks = is_prefilled(prefilled, model)
            with (
                Journal(out / "answers.jsonl") as journal,
                connect(
                    model, base_url, key=api_key, journal=journal, concurrency=concurrency, timeout=timeout,
                    request=request,
                ) as generator,
            ):  # fmt: skip
                read = official.read if official else None
                judgements = judge(generator, tasks, sampling, parsing=parsing, prefilled=thinks, read=read)
            metrics = {f"critic/{k}": v for k, v in pairwise_metrics(judgements, seed=seed).items()}
            metrics |= {f"length/{k}": v for k, v in length_metrics(judgements, seed=seed).items()}
            metrics |= {f"category/{k}": v for k, v in category_metrics(judgements, seed=seed).items()}
            metrics |= {f"official/{k}": v for k, v in official_metrics(judgements, seed=seed).items()}
            if official:
                del metrics["critic/format_rate"]  # of a form that was not asked for
            settings: dict[str, Any] = {"model": model, "base_url": base_url, "benchmark": name, "prompt": prompt,
                                        "sampling": asdict(sampling), "verdicts": parsing, "prefilled": thinks,
                                        "request": request_fields(request or ())}  # fmt: skip
            if prepared:
                settings |= {"records": prepared.records, "records_lost": prepared.lost, "frames": frames}
            else:
                settings["data"] = [str(Path(path).resolve()) for path in data]  # where a report finds the images
            ended = Counter(reason for j in judgements for reason in j.finish_reasons)
            if bad_rows:
                first = dict(islice(bad_rows.items(), MOST_NAMED))
                settings["rows_lost"] = {"count": len(bad_rows), "first": first}
            settings |= {"endings": dict(sorted(ended.items())), "traffic": asdict(generator.traffic)}
            write_json_lines(out / "judgements.jsonl", (judgement.record() for judgement in judgements))
            write(out / "judge.json", metrics, {**settings, **generator.facts()})
    except FAULTS as error:
        raise ending(error) from error
    show(metrics)
    if prepared and prepared.lost:
        reasons = ", ".join(f"{n} {reason}" for reason, n in prepared.lost.items())
        warn(f"some of {prepared.records} records gave no task ({reasons}): the metrics are about the others, see"
             f" {prepared.folder / 'rejected.jsonl'}")  # fmt: skip
    if bad_rows:
        place, why = next(iter(bad_rows.items()))
        warn(f"rows that cannot be judged and are left out: {len(bad_rows)}; the first is {place}: {why}")
    _tell_endings(judgements, ended, prefilled=thinks)
    tell([generator])
    lost = Counter(j.reason for j in judgements if not j.answered)
    failed = lost.pop(REQUEST_FAILED, 0)
    close(failed, lost, len(judgements))


def _judge_suite(path: Path, out: Path, given: dict[str, Any], *, alone: bool) -> None:
    """Judge all benchmarks of a suite with the same options, each into a folder of its own, and show one table."""

    def judge_one(name: str, entry: Entry, limit: int | None, folder: Path) -> int:
        say(f"{name}: {', '.join(entry.input)}")
        try:
            judge_command([name], out=folder, input=list(entry.input), image_root=list(entry.image_root), limit=limit,
                          frames=entry.frames, **given)  # fmt: skip
        except typer.Exit as end:
            return end.exit_code
        return 0

    try:
        if not alone:
            raise ValueError("a suite says input, image_root, limit and frames itself: leave these options out")
        suite = read_suite(path)
        found, failed = run_suite(suite, out, judge_one)
        write_json(out / "suite.json", {"suite": suite.model_dump(mode="json"), "failed": failed, "benchmarks": found})
    except FAULTS as error:
        raise ending(error) from error
    table = Table(Column("benchmark", overflow="fold"), "overall", "95 % interval", *list(METRICS)[1:])
    for row in rows(suite, found):
        table.add_row(*map(cell, row))
    console.print(table)
    if failed:
        warn(f"failed: {', '.join(failed)}; run the same command again, which resumes")
        raise typer.Exit(max(failed.values()))


def _tell_endings(judgements: Sequence[Judgement], ended: Counter[str], *, prefilled: bool) -> None:
    """Say how many answers were cut off or refused, and when the chat template seems to open the thoughts."""
    if cut := ended["length"]:
        warn(f"{cut} of {ended.total()} answers were cut off at the token limit: raise --max-tokens")
    if refused := sum(j.reason == REFUSED for j in judgements):
        warn(f"{refused} of {len(judgements)} judgements were refused by the model: they count as not right")
    opened = sum(j.reason == "think_not_opened" for j in judgements)
    if opened and not prefilled:
        warn(f"{opened} answers close a think block that they did not open: give --prefilled if the template opens it")


def compare_command(
    first: Annotated[Path, typer.Argument(help="Output folder of one `critic-r1 judge`.")],
    second: Annotated[Path, typer.Argument(help="Output folder of another one on the same data.")],
    out: Annotated[Path | None, typer.Option(help="JSON file to write the comparison to.")] = None,
    seed: Seed = 0,
) -> None:
    """Compare two judge runs on the same items: second minus first, paired by image, with McNemar's exact test."""
    try:
        if out is not None:
            refuse_foreign_file(out, '"mcnemar": {', "a comparison")
        result = compare(load_judgements(first), load_judgements(second), seed=seed)
        settings = [_settings(run) for run in (first, second)]
        if out is not None:
            write_json(out, {**result.as_dict(), "first": settings[0], "second": settings[1], "seed": seed})
    except FAULTS as error:
        raise ending(error) from error
    table = Table(Column("metric", overflow="fold"), "first", "second", "change", "95 % interval", "n")
    for name, change in result.figures.items():
        e = change.difference
        table.add_row(cell(name), f"{change.first.value:.3f}", f"{change.second.value:.3f}", f"{e.value:+.3f}",
                      f"{e.low:+.3f} to {e.high:+.3f}", str(e.n))  # fmt: skip
    for name in sorted({*settings[0], *settings[1]}):
        one, other = (run.get(name, "-") for run in settings)
        say(f"{name}: {one}" + ("" if one == other else f" and {other}"))
    console.print(table)
    say(
        f"{result.pairs} pairs compared, {result.unanswered} left out for failed requests. Right in every order shown:"
        f" {result.only_first} only in the first, {result.only_second} only in the second run; McNemar's exact test:"
        f" p = {result.p_value:.3g}."
    )


def _critic_tasks(paths: list[Path]) -> tuple[list[JudgeTask], set[str], dict[str, str]]:
    """What is put to a critic, the data sources of it, and the rows that cannot be: `FILE row N` -> why.

    Raises:
        ValueError: the input holds no tasks.
    """
    files = {file for path in paths for file in (path.rglob("*.parquet") if path.is_dir() else [path])}
    tasks: list[JudgeTask] = []
    sources: set[str] = set()
    bad_rows: dict[str, str] = {}
    for place, row in read_rows(files):
        source = row["data_source"]
        if source is not None and not source.startswith("critic/"):
            continue
        try:
            if source is None:
                raise ValueError("no data_source: run `critic-r1 validate` on the file")
            tasks.append(task_from_row(row))
            sources.add(source)
        except ValueError as error:
            bad_rows[place] = str(error)
    if not tasks:
        first = "".join(
            f"; the first of {len(bad_rows)} bad ones, {place}: {why}" for place, why in islice(bad_rows.items(), 1)
        )
        raise ValueError(
            f"no critic rows in {', '.join(map(str, paths))}{first}: run `critic-r1 prepare` on the benchmark"
        )
    return tasks, sources, bad_rows


def _official(prompt: str, code: Path | None, sources: set[str]) -> OfficialPrompt | None:
    """The official prompt of the only benchmark in the data, None for our own."""
    if prompt == "official":
        if len(sources) > 1:
            raise ValueError(f"--prompt official takes one benchmark at a time, not {', '.join(sorted(sources))}")
        return load_prompt(sources.pop().removeprefix("critic/"), code)
    if code is not None:
        raise ValueError("--official-code needs --prompt official")
    return None


def _settings(run: Path) -> dict[str, Any]:
    """How a run was made, for the reader; empty where only its judgements are left."""
    path = run / "judge.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}): run `critic-r1 judge` again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a result of `critic-r1 judge`: run it again")
    return {name: found[name] for name in ("model", "prompt", "verdicts", "sampling") if name in found}


def write(path: Path, metrics: dict[str, Estimate], settings: dict[str, Any]) -> None:
    """Settings, without secrets, and metrics as JSON."""
    write_json(path, {**redacted(settings), "metrics": {name: e.as_dict() for name, e in metrics.items()}})


def show(metrics: dict[str, Estimate]) -> None:
    """Metrics as a table."""
    table = Table(Column("metric", overflow="fold"), "value", "95 % interval", "n")
    for name, e in metrics.items():
        value, interval = ("-", "-") if e.value is None else (f"{e.value:.3f}", f"{e.low:.3f} to {e.high:.3f}")
        table.add_row(cell(name), value, interval, str(e.n))
    console.print(table)
