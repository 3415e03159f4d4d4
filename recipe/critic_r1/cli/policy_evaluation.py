"""`critic-r1 eval-policy`: a served model on public benchmarks, by lmms-eval.

The command prepares the tool's environment once, runs a suite benchmark by benchmark, and reads the results back into
the form of all our result files. The same command again goes on where the last one stopped.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from recipe.critic_r1.eval_policy import results
from recipe.critic_r1.eval_policy.command import (
    TOOL_SIDE,
    Judge,
    Places,
    Served,
    lmms_eval,
    redraw,
    run,
    settings,
    tool_environment,
    vlmevalkit,
    write_json,
    write_rows_task,
)
from recipe.critic_r1.eval_policy.environment import PINS, default_cache, prepare
from recipe.critic_r1.eval_policy.suites import INSTALLED, ROWS_TASK, Benchmark, Suite, faults, load_suite, names

FAULTS = (ValueError, OSError, RuntimeError)

_console = Console()


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("eval-policy")(eval_policy_command)


def eval_policy_command(
    suite: Annotated[str, typer.Argument(help="A suite's name, the path of a suite's yaml, or `all` with --check.")],
    model: Annotated[str, typer.Option(help="Name under which the server knows the model.")] = "",
    base_url: Annotated[str, typer.Option(help="Address of the server, up to and including /v1.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for answers and results.")] = Path("runs/eval-policy"),
    api_key: Annotated[
        str, typer.Option(envvar="OPENAI_API_KEY", help="Key; any text where none is needed.")
    ] = "EMPTY",
    rows: Annotated[
        list[Path] | None, typer.Option(help="For the suite `rows`: policy rows from `prepare`, files or folders.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task of the suite. Repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(help="First rows of each benchmark only; for trying out.")] = None,
    judge_model: Annotated[str, typer.Option(help="Model for metrics that ask a judge; none: they stay out.")] = "",
    judge_url: Annotated[str, typer.Option(help="Address of the judge's server, up to /v1.")] = "",
    judge_key: Annotated[str, typer.Option(envvar="CRITIC_R1_JUDGE_KEY", help="The judge's key.")] = "EMPTY",
    prefilled: Annotated[bool, typer.Option(help="The chat template already writes <think>.")] = False,
    tool: Annotated[str, typer.Option(help="lmms-eval, or vlmevalkit with --print.")] = "lmms-eval",
    print_only: Annotated[bool, typer.Option("--print", help="Write and show the commands; run nothing.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Hold the suite against the tool; run nothing.")] = False,
    record: Annotated[bool, typer.Option("--record", help="With `all --check`: keep what the tool says.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder for the environment. Default: the user's cache.")] = None,
    pins: Annotated[Path, typer.Option(help="Pins of the tool's environment.")] = PINS,
    concurrency: Annotated[int, typer.Option(help="Most requests in flight.")] = 64,
    timeout: Annotated[float, typer.Option(help="Seconds for one attempt.")] = 600.0,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer. Default: the suite's.")] = None,
    seed: Annotated[int, typer.Option(help="Of the intervals.")] = 0,
) -> None:
    """Measure a served model on public benchmarks, by lmms-eval in an environment of its own."""
    try:
        if check:
            _check(suite, cache or default_cache(), pins, record=record)
            return
        chosen = load_suite(suite)
        if max_tokens is not None:
            chosen = chosen.model_copy(update={"max_tokens": max_tokens})
        if not model or not base_url:
            raise ValueError("give --model and --base-url: the name and the address of the served model")
        served = Served(model, base_url, api_key, concurrency, timeout, prefilled=prefilled)
        if tool == "vlmevalkit":
            _show_vlmevalkit(chosen, served, out, print_only=print_only)
            return
        if tool != "lmms-eval":
            raise ValueError(f"--tool {tool!r} is neither lmms-eval nor vlmevalkit")
        include = _rows_task(chosen, rows or [], out)
        judge = Judge(judge_model, judge_url, judge_key) if judge_model and judge_url else None
        wanted, left_out = _choose(chosen, task or [], judge)
        say = _say
        python = (
            Path("ENVIRONMENT/bin/python")
            if print_only
            else prepare(cache or default_cache(), pins=pins, say=say).python
        )
        figures: dict[str, results.Figure] = {}
        readings: dict[str, results.Reading] = {}
        for number, benchmark in enumerate(wanted, 1):
            places = Places(out / "benchmarks" / benchmark.task)
            write_json(places.settings, settings(chosen, served, places))
            command = lmms_eval(python, chosen, benchmark, places, limit=limit, include=include)
            if print_only:
                typer.echo(shlex.join(command))
                continue
            _say(f"{number}/{len(wanted)}  {benchmark.task}: log in {places.log}")
            try:
                environment = tool_environment(served, judge)
                figure = _measure(command, benchmark, places, environment, seed)
                if figure.interval == "none" and not benchmark.judge:  # a judge would be asked at every draw
                    figure = _redrawn(figure, python, benchmark, places, environment, include, seed)
                figures[benchmark.task] = figure
            except FAULTS as error:
                left_out[benchmark.task] = str(error)
                typer.echo(f"{benchmark.task}: {error}", err=True)
            if places.journal.is_file():
                readings[benchmark.task] = results.reading(places.journal, prefilled=prefilled)
        if print_only:
            return
        content = results.report({g: list(b) for g, b in chosen.groups.items()}, figures, readings, left_out)
        said = {"suite": suite, "about": chosen.about.strip(), "tool": _version(python), "model": model,
                "base_url": base_url, "limit": limit, "max_tokens": chosen.max_tokens, "suffix": chosen.suffix,
                "judge": judge.model if judge else None, "seed": seed}  # fmt: skip
        write_json(out / "eval_policy.json", {"settings": said, **content})
    except FAULTS as error:
        typer.echo(f"critic-r1: {error}", err=True)
        raise typer.Exit(2) from error
    _show(content, out / "eval_policy.json")
    if any(benchmark.task in left_out for benchmark in wanted):
        raise typer.Exit(1)


def _check(suite: str, cache: Path, pins: Path, *, record: bool) -> None:
    """Hold suites against the installed tool.

    Raises:
        ValueError: they do not agree.
    """
    suites = [load_suite(name) for name in (names() if suite == "all" else [suite])]
    tasks = sorted({b.task for one in suites for b in one.benchmarks} - {ROWS_TASK})
    python = prepare(cache, pins=pins, say=_say).python
    asked = subprocess.run(
        [str(python), str(TOOL_SIDE / "lmms_tasks.py"), *tasks],
        capture_output=True,
        text=True,
        env=tool_environment(Served("", ""), None),
    )
    if asked.returncode:
        raise RuntimeError(f"lmms-eval did not tell its tasks: {asked.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(asked.stdout)
    for one in suites:
        if any(b.task == ROWS_TASK for b in one.benchmarks):
            found["tasks"].append({"task": ROWS_TASK, "metrics": ["accuracy"], "error": None})
            break
    wrong = [fault for one in suites for fault in faults(one, found)]
    if wrong:
        raise ValueError("; ".join(wrong))
    if record:
        if suite != "all":
            raise ValueError("--record goes with `all`: the record is of every suite")
        write_json(INSTALLED, {"lmms_eval": found["lmms_eval"], "tasks": found["tasks"]})
    typer.echo(
        f"lmms-eval {found['lmms_eval']}: all {len(found['tasks'])} tasks are there, load, and have their metric"
    )


def _rows_task(suite: Suite, rows: list[Path], out: Path) -> str:
    """The folder with the local task; empty when the suite has none."""
    if not any(benchmark.task == ROWS_TASK for benchmark in suite.benchmarks):
        if rows:
            raise ValueError("--rows goes with the suite `rows`")
        return ""
    files = sorted({file for path in rows for file in (path.rglob("*.parquet") if path.is_dir() else [path])})
    if not files:
        raise ValueError("give --rows: Parquet files or folders with policy rows, as runs/demo/data/policy")
    if absent := [str(file) for file in files if not file.is_file()]:
        raise ValueError(f"{absent[0]} does not exist")
    return str(write_rows_task(files, out / "tasks").resolve())


def _choose(suite: Suite, only: list[str], judge: Judge | None) -> tuple[list[Benchmark], dict[str, str]]:
    """The benchmarks to run, and those that stay out with the reason."""
    known = {benchmark.task for benchmark in suite.benchmarks}
    if unknown := sorted(set(only) - known):
        raise ValueError(f"--task {unknown[0]!r} is not in the suite: {', '.join(sorted(known))}")
    wanted, left_out = [], {}
    for benchmark in suite.benchmarks:
        if only and benchmark.task not in only:
            left_out[benchmark.task] = "not asked for"
        elif benchmark.judge and judge is None:
            left_out[benchmark.task] = "its metric asks a judge: give --judge-model and --judge-url"
        else:
            wanted.append(benchmark)
    return wanted, left_out


def _measure(
    command: list[str], benchmark: Benchmark, places: Places, environment: dict[str, str], seed: int
) -> results.Figure:
    """Run one benchmark, unless this very command was run to its end before, and read its figure."""
    marker = places.folder / "finished.json"
    asked = {"command": command, "settings": json.loads(places.settings.read_text(encoding="utf-8"))}
    before = json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else None
    if before != asked:
        shutil.rmtree(places.output, ignore_errors=True)  # of an earlier run; the answers are in the journal
        status = run(command, environment, places.log)
        if status:
            raise RuntimeError(f"lmms-eval ended with status {status}: see {places.log}")
    figure = results.read(benchmark, places.output, seed=seed)
    write_json(marker, asked)
    return figure


def _redrawn(
    figure: results.Figure,
    python: Path,
    benchmark: Benchmark,
    places: Places,
    environment: dict[str, str],
    include: str,
    seed: int,
) -> results.Figure:
    """The figure with an interval from the tool's own aggregation, which is kept beside the results it is of."""
    samples = results.samples_file(benchmark, places.output)
    kept = samples.with_name(f"interval_{seed}.json")
    if not kept.is_file():
        write_json(kept, redraw(python, benchmark, samples, environment, include=include, seed=seed))
    found = json.loads(kept.read_text(encoding="utf-8"))
    return figure if found is None else results.redrawn(figure, found, benchmark.unit)


def _show_vlmevalkit(suite: Suite, served: Served, out: Path, *, print_only: bool) -> None:
    if not print_only:
        raise ValueError("--tool vlmevalkit goes with --print: it is not on package registries, so it is not run here")
    content, line, absent = vlmevalkit(suite, served, out)
    if not content["data"]:
        raise ValueError("VLMEvalKit has none of the suite's benchmarks")
    write_json(out / "vlmevalkit.json", content)
    typer.echo(line)
    if absent:
        typer.echo(f"not in VLMEvalKit, or not under one name: {', '.join(absent)}", err=True)


def _version(python: Path) -> str:
    said = subprocess.run(
        [str(python), "-c", "from importlib.metadata import version; print(version('lmms_eval'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return f"lmms-eval {said.stdout.strip()}"


def _say(line: str) -> None:
    _console.print(line, highlight=False, markup=False)


def _show(content: dict[str, Any], path: Path) -> None:
    table = Table("figure", "value", "95 % interval", "questions")
    for name, f in content["metrics"].items():
        interval = "-" if f["low"] is None else f"{f['low']:.3f} to {f['high']:.3f}"
        table.add_row(name, f"{f['value']:.3f}", interval, str(f["n"]))
    _console.print(table)
    for task, found in content["reading"].items():
        boxed = f"{found['boxed']} of {found['responses']} responses with an answer in a box"
        _say(f"{task}: {boxed}, {found['cut']} cut off")
    for task, why in content["left_out"].items():
        _say(f"left out: {task}: {why}")
    _say(str(path))
