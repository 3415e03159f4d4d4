"""Runs whose settings a test may change: with data and a model of their own, and without."""

import ast
import copy
import functools
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from data_prep.tasks.pairwise import SCHEMA, Image, PreferencePair, PreferenceTask
from recipe.critic_r1 import preflight
from recipe.critic_r1.train import compose_config, prepare_config

ACTOR, ROLLOUT, MODEL = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "model"))
KWARGS = "+reward.custom_reward_function.reward_kwargs"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8ffff3f0005fe02fe0def46b8"
    "0000000049454e44ae426082"
)
PARSER = OverridesParser.create()


@functools.cache
def with_groups(name: str, overrides: tuple[str, ...]) -> DictConfig:
    return compose_config(name, overrides)


def composed(name: str, changed: dict[str, str]) -> DictConfig:
    """A run's configuration. Choices of groups are composed once; values are set in a copy, which takes no time."""
    values = {key: value for key, value in changed.items() if "." in key and key[0] not in "+~"}
    config = copy.deepcopy(
        with_groups(name, tuple(f"{key}={value}" for key, value in changed.items() if key not in values))
    )
    for key, value in values.items():
        OmegaConf.update(config, key, PARSER.parse_override(f"{key}={value}").value())
    prepare_config(config)
    return config


class Run:
    """Configurations with one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def config(self, changed: dict[str, str], name: str = "r1") -> DictConfig:
        given = {"critic_r1.run_dir": str(self.folder), **changed}
        return composed(name, given)

    def speaks(self, check: preflight.Check, changed: dict[str, str], status: str, pattern: str) -> None:
        """The check has such a finding with the change, and not without it."""
        assert any(re.search(pattern, line) for line in self.said(check, changed, status))
        assert not any(re.search(pattern, line) for line in self.said(check, {}, status))

    def said(self, check: preflight.Check, changed: dict[str, str], status: str, name: str = "r1") -> list[str]:
        """What a check says with this status; each such finding has a remedy."""
        found = [finding for finding in check(self.config(changed, name)) if finding.status == status]
        assert all(finding.remedy for finding in found)
        return [f"{finding.check}: {finding.detail}" for finding in found]


@pytest.fixture(autouse=True)
def the_platform_is_restored() -> Iterator[None]:
    """A configuration for a CPU names the platform in the environment, where later tests would find it."""
    before = os.environ.get("VERL_PLATFORM")
    yield
    if before is None:
        os.environ.pop("VERL_PLATFORM", None)
    else:
        os.environ["VERL_PLATFORM"] = before


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return Run(tmp_path / "run")


@pytest.fixture
def flash_attn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machines of the estimates have it."""
    monkeypatch.setattr("recipe.critic_r1.preflight.memory_estimate.has_flash_attn", lambda: True)


def rows(n: int) -> list[dict[str, Any]]:
    pairs = (PreferencePair("digits", (Image(PNG),), f"Question {i}?", ("7", "3"), 0) for i in range(n))
    return [PreferenceTask(pair, order=i % 2, index=i).row() for i, pair in enumerate(pairs)]


def write(path: Path, records: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), path)
    return str(path)


@pytest.fixture
def good(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A run of the demo's configuration that passes; its files may be spoilt."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return {
        "data.train_files": write(tmp_path / "train.parquet", rows(32)),
        "data.val_files": write(tmp_path / "val.parquet", rows(2)),
        f"{MODEL}.path": str(shutil.copytree(tiny_model, tmp_path / "model")),
        "critic_r1.run_dir": str(tmp_path / "run"),
        "critic_r1.min_free_memory_gb": "0.1",
    }


def demo(given: dict[str, str]) -> DictConfig:
    return composed("demo", given)


SOURCES = sorted(Path(preflight.__file__).parent.glob("*.py"))
MADE: set[tuple[str, int, str]] = set()
"""File, line and status of every finding that a test has made."""


@pytest.fixture(scope="session", autouse=True)
def findings_are_noted() -> Iterator[None]:
    original = preflight.Finding.__init__

    def noted(self: preflight.Finding, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)  # type: ignore[arg-type]
        caller = sys._getframe(1)
        MADE.add((Path(caller.f_code.co_filename).name, caller.f_lineno, self.status))

    preflight.Finding.__init__ = noted  # type: ignore[method-assign]
    yield
    preflight.Finding.__init__ = original  # type: ignore[method-assign]


def refusals(source: Path) -> Iterator[tuple[str, int, str]]:
    """File, line and status of each place that can make a finding other than a `pass`."""
    for function in ast.walk(ast.parse(source.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        chosen = {n.target.id: n.value for n in ast.walk(function) if isinstance(n, ast.AnnAssign) and n.value}  # type: ignore[union-attr]
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Finding":
                status = call.args[1]
                status = chosen.get(status.id, status) if isinstance(status, ast.Name) else status
                for node in ast.walk(status):
                    if isinstance(node, ast.Constant) and node.value in ("warn", "fail"):
                        yield source.name, call.lineno, str(node.value)


def every_refusal_was_made(request: pytest.FixtureRequest, *names: str) -> None:
    """Each `warn` and `fail` of these modules of preflight was made by a test of the calling module."""
    here = [item for item in request.session.items if item.path == request.path]
    written = set(re.findall(r"^def (test_\w+)", request.path.read_text(), re.MULTILINE))
    if {item.originalname for item in here} != written:  # type: ignore[attr-defined]
        pytest.skip("only some of this module's tests were chosen")
    unmade = sorted({one for path in SOURCES if path.name in names for one in refusals(path)} - MADE)
    assert not unmade, unmade
