"""`critic-r1 eval-policy`: a served model on public benchmarks, by lmms-eval.

The command prepares the tool's environment once, runs a suite benchmark by benchmark, and reads the results into the
form of all result files. The same command again resumes where the last one stopped.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache as cache_of
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from data_prep.files import write_json
from recipe.critic_r1.cli.options import FAULTS, ApiKey, Concurrency, Prefilled, Timeout, is_prefilled
from recipe.critic_r1.cli.output import cell, claimed, console, ending, say, warn
from recipe.critic_r1.eval_policy import results
from recipe.critic_r1.eval_policy.command import (
    CHANGES_VARIABLE,
    TOOL_SIDE,
    Judge,
    Places,
    Served,
    ask_once,
    lmms_eval,
    redraw,
    run,
    settings,
    tool_environment,
    write_rows_task,
)
from recipe.critic_r1.eval_policy.environment import PINS, default_cache, prepare
from recipe.critic_r1.eval_policy.suites import INSTALLED, ROWS_TASK, Benchmark, Suite, faults, load_suite, names
from recipe.critic_r1.judging.address import choose_key, proxy_note
from recipe.critic_r1.judging.openai_client import ServerRefusedError
from recipe.critic_r1.redaction import redacted


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("eval-policy")(eval_policy_command)


def eval_policy_command(
    suite: Annotated[str, typer.Argument(help="Name of a suite, path of a suite's yaml file, or `all` with --check.")],
    model: Annotated[str, typer.Option(help="Name by which the server knows the model.")] = "",
    base_url: Annotated[str, typer.Option(help="Address of the server, such as http://127.0.0.1:8000/v1.")] = "",
    out: Annotated[Path, typer.Option(help="Output folder: answers, logs and results.")] = Path("runs/eval-policy"),
    api_key: ApiKey = "",
    rows: Annotated[
        list[Path] | None,
        typer.Option(help="Files or folders with policy rows from `critic-r1 prepare`, for the suite `rows`."),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Run only this task of the suite. Repeatable.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Ask only this many questions of each benchmark, for a trial run.")
    ] = None,
    judge_model: Annotated[
        str, typer.Option(help="Model that metrics with a judge ask. Without one, their benchmarks are left out.")
    ] = "",
    judge_url: Annotated[str, typer.Option(help="Address of the judge's server, up to /v1.")] = "",
    judge_key: Annotated[
        str, typer.Option(envvar="CRITIC_R1_JUDGE_KEY", show_envvar=True, help="API key of the judge's server.")
    ] = "EMPTY",
    prefilled: Prefilled = None,
    print_only: Annotated[
        bool, typer.Option("--print", help="Write and show the commands without running them.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Check the suite's tasks and metrics against the installed lmms-eval.")
    ] = False,
    record: Annotated[
        bool, typer.Option("--record", help="With `all --check`: save what the tool offers to installed.json.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for lmms-eval's environment. Default: the user's cache.")
    ] = None,
    pins: Annotated[Path, typer.Option(help="Requirements file of lmms-eval's environment.")] = PINS,
    concurrency: Concurrency = 64,
    timeout: Timeout = 600.0,
    max_tokens: Annotated[
        int | None, typer.Option(help="Maximum length of an answer in tokens. Default: the suite's own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Measure a served model on public benchmarks, by lmms-eval in an environment of its own."""
    stack = ExitStack()
    try:
        if check:
            _check(suite, cache or default_cache(), pins, record=record)
            return
        chosen = load_suite(suite)
        if max_tokens is not None:
            chosen = chosen.model_copy(update={"max_tokens": max_tokens})
        if not model or not base_url:
            raise ValueError("give --model and --base-url: the name and the address of the served model")
        if note := proxy_note(base_url):
            warn(note)
        thinks = is_prefilled(prefilled, model)
        key = choose_key(api_key, base_url, warn)
        served = Served(model, base_url, key, concurrency, timeout, prefilled=thinks)
        stack.enter_context(claimed(out, "eval-policy", ["eval_policy.json"], record="benchmarks"))
        include = _rows_task(chosen, rows or [], out)
        judge = None
        if judge_model and judge_url:
            judge = Judge(judge_model, judge_url, choose_key(judge_key, judge_url, warn))
        wanted, left_out = _choose(chosen, task or [], judge)
        python = (
            Path("ENVIRONMENT/bin/python")
            if print_only
            else prepare(cache or default_cache(), pins=pins, say=say).python
        )
        unsupported = cache_of(lambda: ask_once(served))
        figures: dict[str, results.Figure] = {}
        readings: dict[str, results.Reading] = {}
        for number, benchmark in enumerate(wanted, 1):
            places = Places(out / "benchmarks" / benchmark.task)
            write_json(places.settings, settings(chosen, served, places))
            command = lmms_eval(python, chosen, benchmark, places, limit=limit, include=include)
            if print_only:
                typer.echo(shlex.join(command))
                continue
            say(f"{number}/{len(wanted)}  {benchmark.task}: log in {places.log}")
            try:
                environment = tool_environment(served, judge)
                figure = _measure(command, benchmark, places, environment, seed, unsupported)
                if figure.interval == "none" and not benchmark.judge:  # a judge would be asked at every draw
                    figure = _redrawn(figure, python, benchmark, places, environment, include, seed)
                figures[benchmark.task] = figure
            except ServerRefusedError:
                raise
            except FAULTS as error:
                left_out[benchmark.task] = str(error)
                warn(f"{benchmark.task}: {error}")
            if places.journal.is_file():
                readings[benchmark.task] = results.reading(places.journal, prefilled=thinks)
        if print_only:
            return
        content = results.report({g: list(b) for g, b in chosen.groups.items()}, figures, readings, left_out)
        said = {"suite": suite, "about": chosen.about.strip(), "tool": _version(python), "model": model,
                "base_url": base_url, "limit": limit, "max_tokens": chosen.max_tokens, "suffix": chosen.suffix,
                "judge": judge.model if judge else None, "seed": seed}  # fmt: skip
        write_json(out / "eval_policy.json", {"settings": redacted(said), **content})
    except FAULTS as error:
        raise ending(error) from error
    finally:
        stack.close()
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
    python = prepare(cache, pins=pins, say=say).python
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
            raise ValueError("--record needs `all`: it records every suite")
        write_json(INSTALLED, {"lmms_eval": found["lmms_eval"], "tasks": found["tasks"]})
    typer.echo(
        f"lmms-eval {found['lmms_eval']}: all {len(found['tasks'])} tasks are there, load, and have their metric"
    )


def _rows_task(suite: Suite, rows: list[Path], out: Path) -> str:
    """The folder with the local task; empty when the suite has none."""
    if not any(benchmark.task == ROWS_TASK for benchmark in suite.benchmarks):
        if rows:
            raise ValueError("--rows needs the suite `rows`")
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
    command: list[str],
    benchmark: Benchmark,
    places: Places,
    environment: dict[str, str],
    seed: int,
    unsupported: Callable[[], list[str]],
) -> results.Figure:
    """Run one benchmark, unless this very command was run to its end before, and read its figure.

    Args:
        unsupported: see `ask_once`.
    """
    marker = places.folder / "finished.json"
    asked = {"command": command, "settings": json.loads(places.settings.read_text(encoding="utf-8"))}
    if _kept(marker) != asked:
        environment = {**environment, CHANGES_VARIABLE: json.dumps(unsupported())}
        shutil.rmtree(places.output, ignore_errors=True)  # of an earlier run; the answers are in the journal
        status = run(command, environment, places.log)
        if status:
            raise RuntimeError(f"lmms-eval ended with status {status}: see {places.log}")
    marker.unlink(missing_ok=True)  # results that cannot be read are made again
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
    found = _kept(kept, otherwise=False)
    if found is not None and not isinstance(found, dict):
        found = redraw(python, benchmark, samples, environment, include=include, seed=seed)
        write_json(kept, found)
    return figure if found is None else results.redrawn(figure, found, benchmark.unit)


def _kept(path: Path, otherwise: Any = None) -> Any:
    """What an earlier run left in a file; `otherwise` when there is none, or it is damaged and therefore made again."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return otherwise


def _version(python: Path) -> str:
    said = subprocess.run(
        [str(python), "-c", "from importlib.metadata import version; print(version('lmms_eval'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return f"lmms-eval {said.stdout.strip()}"


def _show(content: dict[str, Any], path: Path) -> None:
    table = Table("metric", "value", "95 % interval", "questions")
    for name, f in content["metrics"].items():
        interval = "-" if f["low"] is None else f"{f['low']:.3f} to {f['high']:.3f}"
        table.add_row(cell(name), f"{f['value']:.3f}", interval, str(f["n"]))
    console.print(table)
    for task, found in content["reading"].items():
        boxed = f"{found['boxed']} of {found['responses']} responses with an answer in a box"
        say(f"{task}: {boxed}, {found['cut']} cut off")
    for task, why in content["left_out"].items():
        say(f"left out: {task}: {why}")
    say(str(path))
