"""The matrix of switches is measured a row at a time, and a second call takes up where the first ended."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import gpu_switches
from recipe.critic_r1.rehearsal.switches import Agreement, Case, every

FAILED = "Traceback\n  somewhere\nValueError: " + "x" * 1000


def test_the_matrix_is_completed_over_several_calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Case] = []

    def compare(cases: Sequence[Case], folder: Path) -> dict[Case, Agreement]:
        asked.extend(cases)
        return {case: Agreement(1e-7, 1e-6, 1e-8, FAILED if case.tuning == "lora" else "") for case in cases}

    monkeypatch.setattr(gpu_switches, "compare", compare)
    out = tmp_path / "found.json"
    gpu_switches.main(rows=1, again=False, out=out)
    assert asked == every()[:2]  # both precisions of the first row
    gpu_switches.main(rows=1000, again=False, out=out)
    gpu_switches.main(rows=1000, again=False, out=out)  # nothing is left
    assert asked == every()
    cells = json.loads(out.read_text())["cells"]
    assert len(cells) == len(every())
    for found in cells:
        if found["tuning"] == "lora":
            assert found["error"].startswith("ValueError: xxx")
            assert len(found["error"]) == gpu_switches.LONGEST_ERROR
        else:
            assert (found["log_probs"], found["loss"], found["grad_norm"]) == (1e-7, 1e-6, 1e-8)
    gpu_switches.main(rows=1, again=True, out=out)
    assert len(json.loads(out.read_text())["cells"]) == 2
