"""A run whose settings a test may change, without data or a model of its own."""

from pathlib import Path

import pytest
from omegaconf import DictConfig

from recipe.critic_r1 import preflight
from recipe.critic_r1.train import compose_config, prepare_config

ACTOR, ROLLOUT, MODEL = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "model"))


class Run:
    """Configurations with one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def config(self, changed: dict[str, str], name: str = "r1") -> DictConfig:
        given = {"critic_r1.run_dir": str(self.folder), **changed}
        composed = compose_config(name, [f"{key}={value}" for key, value in given.items()])
        prepare_config(composed)
        return composed

    def said(self, check: preflight.Check, changed: dict[str, str], status: str, name: str = "r1") -> list[str]:
        """What a check says with this status; each such finding has a remedy."""
        found = [finding for finding in check(self.config(changed, name)) if finding.status == status]
        assert all(finding.remedy for finding in found)
        return [f"{finding.check}: {finding.detail}" for finding in found]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return Run(tmp_path / "run")
