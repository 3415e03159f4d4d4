"""The modules of tool_side/, which run where nothing of ours is installed: loaded as scripts are."""

import importlib
from types import ModuleType

import pytest

from recipe.critic_r1.eval_policy.command import TOOL_SIDE


@pytest.fixture
def lmms_model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOL_SIDE))
    return importlib.import_module("lmms_model")


@pytest.fixture
def lmms_interval(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOL_SIDE))
    return importlib.import_module("lmms_interval")


@pytest.fixture
def policy_rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOL_SIDE / "rows_task"))
    return importlib.import_module("policy_rows")
