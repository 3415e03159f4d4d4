"""Every configuration x cluster x tuning x precision on the CPU platform, against the padded float32 path.

    python -m benchmarks.gpu_switches

Two steps of verl's own workers on two gloo ranks with tiny models (`recipe.critic_r1.rehearsal.switches`). A cell that
fails has the last line of its error.
"""

import tempfile
from pathlib import Path

import typer

from benchmarks import harness
from recipe.critic_r1.rehearsal.switches import compare, every


def main(out: harness.Out = harness.RESULTS / "gpu_switches.json") -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = compare(every(), Path(folder))
    cells = []
    for case, agreement in found.items():
        cell: dict[str, object] = {"case": case.name}
        if agreement.error:
            cell["error"] = agreement.error.strip().splitlines()[-1]
        else:
            cell |= {name: getattr(agreement, name) for name in ("log_probs", "loss", "grad_norm")}
        cells.append(cell)
        print(cell)
    harness.write(out, {"cells": cells})


if __name__ == "__main__":
    typer.run(main)
