"""Every configuration x cluster x tuning x precision on the CPU platform, against the padded float32 path.

    python -m benchmarks.gpu_switches                # the rest of the matrix
    python -m benchmarks.gpu_switches --rows 1       # one configuration x cluster x tuning more
    python -m benchmarks.gpu_switches --again        # all of it

Two steps of verl's own workers on two gloo ranks with tiny models (`recipe.critic_r1.rehearsal.switches`). Cells that
the result file has are not run again. A cell that fails has the last line of its error.
"""

import json
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import harness
from recipe.critic_r1.rehearsal.switches import Agreement, Case, compare, every

LONGEST_ERROR = 200
"""Characters."""


def cell(case: Case, agreement: Agreement) -> dict[str, Any]:
    """What the result file has of a case."""
    named = {"config": case.config, "cluster": case.cluster, "tuning": case.tuning, "precision": case.precision}
    if agreement.error:
        return named | {"error": agreement.error.strip().splitlines()[-1][:LONGEST_ERROR]}
    return named | {name: getattr(agreement, name) for name in ("log_probs", "loss", "grad_norm")}


def main(
    rows: Annotated[int, typer.Option(help="Run at most this many rows: configuration x cluster x tuning.")] = 1000,
    again: Annotated[bool, typer.Option("--again", help="Forget the cells of the result file.")] = False,
    out: harness.Out = harness.RESULTS / "gpu_switches.json",
) -> None:
    cells: list[dict[str, Any]] = []
    if out.exists() and not again:
        cells = json.loads(out.read_text(encoding="utf-8"))["cells"]
    done = {(found["config"], found["cluster"], found["tuning"], found["precision"]) for found in cells}
    open_cases = [case for case in every() if (case.config, case.cluster, case.tuning, case.precision) not in done]
    grouped = groupby(open_cases, lambda case: (case.config, case.cluster, case.tuning))
    for _, (name, cases) in zip(range(rows), grouped, strict=False):
        with tempfile.TemporaryDirectory() as folder:
            found = compare(list(cases), Path(folder))
        cells += [cell(case, agreement) for case, agreement in found.items()]
        print(*name, cells[-len(found) :])
        harness.write(out, {"cells": cells})


if __name__ == "__main__":
    typer.run(main)
