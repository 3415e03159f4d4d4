"""The command lines of the tools."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from data_prep.tasks.prompts import THINK_THEN_ANSWER
from recipe.critic_r1.eval_policy.command import (
    Judge,
    Places,
    Served,
    lmms_eval,
    settings,
    tool_environment,
    write_rows_task,
)
from recipe.critic_r1.eval_policy.suites import load_suite
from recipe.critic_r1.judging.address import KEY_VARIABLE

SERVED = Served("org/model,v2=x", "http://host:8000/v1", api_key="secret", concurrency=7)
PLACES = Places(Path("/out/benchmarks/gqa"))


def test_a_benchmark_is_one_run_of_the_tool() -> None:
    suite = load_suite("paper26")
    command = lmms_eval(Path("/env/bin/python"), suite, suite.benchmarks[2], PLACES, limit=8)
    expected = {
        "--model": "critic_r1",
        "--tasks": "gqa",
        "--gen_kwargs": "max_new_tokens=8192,temperature=0",
        "--limit": "8",
        # The tool would strip thoughts itself, where there are none any more.
        "--reasoning_tags": "none",
        "--output_path": "/out/benchmarks/gqa/lmms-eval",
    }
    assert {name: command[command.index(name) + 1] for name in expected} == expected
    assert "--log_samples" in command


def test_names_with_commas_reach_the_model_and_the_key_stands_nowhere() -> None:
    suite = load_suite("paper26")
    told = settings(suite, SERVED, PLACES)
    assert told["model_args"]["model"] == "org/model,v2=x"
    assert told["model_args"]["num_cpus"] == 7  # so the tool calls its requests in flight
    assert told["suffix"] == THINK_THEN_ANSWER
    command = lmms_eval(Path("python"), suite, suite.benchmarks[0], PLACES)
    assert "secret" not in json.dumps(told) + shlex.join(command)
    assert tool_environment(SERVED, None, {})[KEY_VARIABLE] == "secret"


@pytest.mark.parametrize(
    ("judge", "given", "expected"),
    [
        # Some tasks read both when they are imported, and end where they are not set.
        (None, {}, {"OPENAI_API_KEY": "EMPTY", "HF_HOME": str(Path.home() / ".cache" / "huggingface")}),
        (None, {"HF_HOME": "/data/hf", "OPENAI_API_KEY": "mine"}, {"HF_HOME": "/data/hf", "OPENAI_API_KEY": "EMPTY"}),
        (
            Judge("big", "http://judge/v1", "k"),
            {"OPENAI_API_KEY": "mine"},
            {"OPENAI_API_KEY": "k", "OPENAI_API_URL": "http://judge/v1", "MODEL_VERSION": "big", "API_TYPE": "openai"},
        ),
    ],
)
def test_the_environment_of_the_tool(judge: Judge | None, given: dict[str, str], expected: dict[str, str]) -> None:
    found = tool_environment(SERVED, judge, {**given, "PYTHONPATH": "/ours"})
    assert found.items() >= expected.items()
    assert "PYTHONPATH" not in found


def test_the_local_task_names_its_files(tmp_path: Path) -> None:
    files = [tmp_path / "a b.parquet", tmp_path / "it's: c.parquet"]
    folder = write_rows_task(files, tmp_path / "tasks")

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    task = yaml.load((folder / "policy_rows.yaml").read_text(), Loader)
    assert task["dataset_kwargs"]["data_files"]["test"] == [str(file) for file in files]
    functions = {value for key, value in task.items() if key.startswith("doc_to") or key == "process_results"}
    source = (folder / "policy_rows.py").read_text()
    for name in functions:
        assert f"def {name.removeprefix('policy_rows.')}(" in source


def test_a_comma_in_a_path_is_refused() -> None:
    suite = load_suite("paper26")
    with pytest.raises(ValueError, match="has a comma"):
        lmms_eval(Path("python"), suite, suite.benchmarks[0], Places(Path("/out,1")))
