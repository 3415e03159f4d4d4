"""`critic-r1 demo --orders both`: training pairs in both orders, as the swapped order of a pair needs."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from recipe.critic_r1.cli import app
from recipe.critic_r1.demo import stages, warm_start
from recipe.critic_r1.demo.pipeline import DemoRun, DemoSettings


@pytest.mark.parametrize(("orders", "times"), [("balanced", 1), ("both", 2)])
def test_training_pairs(orders: Any, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "SPLIT_SIZES", {"n_warm_start": 10, "n_rl": 6, "n_test": 4})
    monkeypatch.setattr(
        warm_start, "hard_negatives", lambda warm, images, seed: {i.index: (i.label + 1) % 10 for i in images}
    )
    (tmp_path / "model" / "warm").mkdir(parents=True)
    stages.prepare(tmp_path, seed=0, flip_labels=0.0, orders=orders, coherence_gate=None)
    rows = {
        split: pq.read_table(tmp_path / "data" / "critic" / f"{split}-00000.parquet") for split in ("train", "test")
    }
    assert (rows["train"].num_rows, rows["test"].num_rows) == (6 * times, 8)
    assert json.loads((tmp_path / "data" / "critic" / "manifest.json").read_text())["settings"]["orders"] == orders


def test_the_option_reaches_the_stage_and_stays_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = DemoRun(tmp_path, DemoSettings(orders="both"), Console()).stages()[0].command
    assert command[command.index("--orders") + 1] == "both"
    seen: list[DemoSettings] = []

    def run(self: DemoRun) -> Path:
        self._open_record()
        seen.append(self.settings)
        return tmp_path

    monkeypatch.setattr(DemoRun, "run", run)
    monkeypatch.setattr("recipe.critic_r1.cli.demo.show_results", lambda out: None)
    for words in (["--orders", "both"], ["--resume"]):
        result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "run"), *words])
        assert result.exit_code == 0, result.output
    assert [settings.orders for settings in seen] == ["both", "both"]
