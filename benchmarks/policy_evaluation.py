r"""`critic-r1 eval-policy` on the demo's models, against the demo's own evaluation of the same questions.

    python -m benchmarks.policy_evaluation

Two ways to one number: lmms-eval against a served model, and our own evaluation in the process of an engine. The
questions, the images and greedy decoding are the same, the code on the way is not. Measured of the model before and
after training:

  - the figure of each way, with its interval;
  - what the tool reports with its own `async_openai`, which strips the thoughts and leaves the box;
  - the command killed in the middle and given again: its figure, and the answers that were paid for twice.

The suites are held against the installed tool first.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.harness import COMMAND, RESULTS, DemoFolder, Out, Server, served, write
from recipe.critic_r1.eval_policy.command import Served, tool_environment
from recipe.critic_r1.eval_policy.environment import default_cache, prepare
from recipe.critic_r1.eval_policy.suites import ROWS_TASK, names

FIGURE = f"policy/rows/{ROWS_TASK}"

KILLED_AT = 100
"""Answers in the journal when the command is killed."""


def _command(server: Server, rows: Path, out: Path, cache: Path, *, concurrency: int = 32) -> list[str]:
    asked = [COMMAND, "eval-policy", "rows", "--rows", str(rows), *server.options]
    return [*asked, "--out", str(out), "--cache", str(cache), "--concurrency", str(concurrency)]


def _figure(out: Path) -> dict[str, Any]:
    figure: dict[str, Any] = json.loads((out / "eval_policy.json").read_text(encoding="utf-8"))["metrics"][FIGURE]
    return figure


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _plain(server: Server, out: Path, python: Path) -> float:
    """What lmms-eval reports of the same task with its own model class."""
    arguments = f"model={server.name},base_url={server.url},api_key=EMPTY,num_cpus=32"
    subprocess.run(
        [str(python), "-m", "lmms_eval", "--model", "async_openai", "--model_args", arguments, "--tasks", ROWS_TASK,
         "--gen_kwargs", "max_new_tokens=1024,temperature=0", "--include_path", str((out / "tasks").resolve()),
         "--output_path", str((out / "plain").resolve())],
        env=tool_environment(Served(server.name, server.url), None), check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    (path,) = (out / "plain").rglob("*_results.json")
    value: float = json.loads(path.read_text(encoding="utf-8"))["results"][ROWS_TASK]["accuracy,none"]
    return value


def _killed(server: Server, rows: Path, out: Path, cache: Path) -> dict[str, Any]:
    """The figure of a command that was killed with all that it had started, and given again."""
    journal = out / "benchmarks" / ROWS_TASK / "answers.jsonl"
    command = _command(server, rows, out, cache, concurrency=2)
    start = server.counters()["generated"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    while _lines(journal) < KILLED_AT:
        if process.poll() is not None:
            raise RuntimeError(f"the command ended with status {process.returncode} before it was killed")
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = _lines(journal)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    answers = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    return {
        "answers_kept": kept,
        "answers": len(answers),
        "questions": len({answer["key"] for answer in answers}),
        "tokens_generated": server.counters()["generated"] - start,
        "tokens_in_answers": sum(answer["response"]["usage"]["completion_tokens"] for answer in answers),
        "figure": _figure(out),
    }


def table(result: dict[str, Any]) -> str:
    """The figures as the Markdown table of docs/policy_evaluation.md, in percent."""

    def cell(figure: dict[str, Any]) -> str:
        return f"{100 * figure['value']:.1f} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"

    lines = [
        "| greedy accuracy, % | the demo's own evaluation | eval-policy | lmms-eval's own model class |",
        "|---|---|---|---|",
    ]
    for stage in ("before", "after"):
        found = result[stage]
        plain = f"{100 * found['plain_async_openai']:.1f}"
        lines.append(f"| {stage} training | {cell(found['own'])} | {cell(found['lmms_eval'])} | {plain} |")
    killed = result["killed"]
    lines.append(f"| after, killed at {killed['answers_kept']} answers and run again | | {cell(killed['figure'])} | |")
    return "\n".join(lines)


def main(
    run: DemoFolder = Path("runs/demo"),
    folder: Annotated[Path, typer.Option(help="Where the answers go; an empty one.")] = Path("runs/bench-eval-policy"),
    cache: Annotated[Path | None, typer.Option(help="As in eval-policy.")] = None,
    out: Out = RESULTS / "policy_evaluation.json",
) -> None:
    """Measure and write the results."""
    cache, rows = cache or default_cache(), run / "data" / "policy"
    if folder.exists():
        raise SystemExit(f"{folder} exists: answers in it would be taken for new ones; remove it or give --folder")
    check = [COMMAND, "eval-policy", "all", "--check", "--cache", str(cache)]
    checked = subprocess.run(check, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    python = prepare(cache).python
    found: dict[str, Any] = {}
    for stage, model in (("before", "warm"), ("after", "trained")):
        with served(run / "model" / model, "demo", folder / f"{stage}-server.log") as server:
            place = folder / stage
            subprocess.run(_command(server, rows, place, cache), check=True)
            own = json.loads((run / "eval" / stage / "eval.json").read_text(encoding="utf-8"))["metrics"]
            report = json.loads((place / "eval_policy.json").read_text(encoding="utf-8"))
            found[stage] = {
                "lmms_eval": _figure(place),
                "own": own["policy/greedy"],
                "reading": report["reading"][ROWS_TASK],
                "plain_async_openai": _plain(server, place, python),
            }
            if stage == "after":
                found["killed"] = _killed(server, rows, folder / "killed", cache)
    result = {
        "tool": report["settings"]["tool"],
        "suites": {"names": names(), "check": checked},
        **found,
    }
    print(table(result))
    write(out, result)


if __name__ == "__main__":
    typer.run(main)
