"""The rewards as a library: one response, lists, chat messages, TRL's calls."""

import doctest
import importlib
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import reward_fns
from reward_fns import Reward, answer_reward, mixed_reward, nway_reward, pointwise_reward, preference_reward

ROOT = Path(__file__).parents[2]
RIGHT, WRONG = "<think>A reason.</think>\\boxed{1}", "<think>A reason.</think>\\boxed{2}"


def chat(content: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": content, **more}]


@pytest.mark.parametrize(
    ("completions", "ground_truth", "columns", "expected"),
    [
        (RIGHT, "1", {}, 1.0),
        ([RIGHT], "1", {}, [1.0]),
        ([RIGHT, WRONG], "1", {}, [1.0, 0.1]),
        ([RIGHT, WRONG], ["1", "2"], {}, [1.0, 1.0]),
        ((RIGHT, WRONG), ("2", "2"), {}, [0.1, 1.0]),
        ([], [], {}, []),
        (chat(RIGHT), "1", {}, 1.0),
        ([chat(RIGHT), chat(WRONG)], ["1", "1"], {}, [1.0, 0.1]),
        ([[{"role": "user", "content": WRONG}, *chat(RIGHT)]], ["1"], {}, [1.0]),  # the last message counts
        ([chat([{"type": "text", "text": RIGHT}])], ["1"], {}, [1.0]),
        ([chat("\\boxed{1}", reasoning_content="A reason.")], ["1"], {}, [1.0]),  # a chat parser moved the thoughts
        ([chat(None), [], [None], None, 7], ["1"] * 5, {}, [0.0] * 5),  # a tool call, or nothing at all
        ("Response 1 is better.", "1", {"parsing": "lenient"}, 0.9),
        ([RIGHT, WRONG], "1", {"parsing": ["a column", "of the data set"]}, [1.0, 0.1]),
    ],
)
def test_one_response_or_a_list(completions: Any, ground_truth: Any, columns: dict[str, Any], expected: Any) -> None:
    assert preference_reward(completions, ground_truth, **columns) == expected


def test_the_call_of_trl() -> None:
    """Keywords, lists, extra columns and objects, as GRPOTrainer passes them."""
    shared: dict[str, Any] = {
        "prompts": ["p", "p"], "completion_ids": [[1], [2]], "trainer_state": object(), "ground_truth": ["1", "1"],
        "log_extra": print,
    }  # fmt: skip
    for completions in ([RIGHT, "hm"], [chat(RIGHT), chat("hm")]):
        assert preference_reward(completions=completions, **shared) == [1.0, 0.0]
    assert [type(score) for score in preference_reward(completions=[RIGHT, "hm"], **shared)] == [float, float]
    assert preference_reward.__name__ == "preference_reward"
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: preference_reward(RIGHT, "1"), range(50))) == {1.0}


@pytest.mark.parametrize(
    ("reward", "response", "truth", "source"),
    [
        (pointwise_reward, "7", "7", ""),
        (nway_reward, "3", "3", ""),
        (answer_reward, "100 mm", "10 cm", ""),
        (mixed_reward, "7", "7", "critic_score/x"),
        (mixed_reward, "(C)", "C", "policy/x"),
    ],
)
def test_every_reward(reward: Reward, response: str, truth: str, source: str) -> None:
    text = f"<think>A reason.</think>\\boxed{{{response}}}"
    assert reward(text, truth, data_source=source) == 1.0
    assert reward([text], [truth], data_source=[source]) == [1.0]
    assert reward.details(text, truth, data_source=source)["reason"] == "ok"
    copy = pickle.loads(pickle.dumps(reward.with_options(format_weight=0.5) if reward is not mixed_reward else reward))
    assert copy.__name__ == reward.__name__
    assert copy([text], [truth], data_source=source) == [1.0]


def test_options() -> None:
    tie = preference_reward.with_options(tie_credit=0.5)
    assert tie("<think>x</think>\\boxed{tie}", "1") == pytest.approx(0.55)
    assert pickle.loads(pickle.dumps(tie)).options == {"tie_credit": 0.5}
    mixed = mixed_reward.with_options(preference={"tie_credit": 0.5})
    assert mixed(["<think>x</think>\\boxed{tie}"], ["1"], data_source=["critic/x"]) == pytest.approx([0.55])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: preference_reward([RIGHT], ["1", "2"]),
            ValueError,
            "need 1 values of ground_truth, not 2",
        ),
        (lambda: mixed_reward([RIGHT], ["1"], data_source=[]), ValueError, "need 1 values of data_source, not 0"),
        (lambda: preference_reward(RIGHT, "1", tie_credits=0.3), TypeError, "no option 'tie_credits'; its options"),
        (lambda: preference_reward.with_options(tie_credits=0.3), TypeError, "no option 'tie_credits'; its options"),
        (lambda: preference_reward(RIGHT, "1", tie_credit=2.0), ValueError, "tie_credit in"),
    ],
)
def test_mistakes_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_public_names() -> None:
    assert set(reward_fns.__all__) <= set(dir(reward_fns))
    for name in reward_fns.__all__:
        assert getattr(reward_fns, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(reward_fns, "nothing")  # noqa: B009


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, reward_fns; print([name for name in sys.modules if name.startswith('reward_fns.')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


MODULES = sorted(path.stem for path in (ROOT / "reward_fns").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(f"reward_fns.{name}"))
    assert failed == 0


def test_the_snippets_of_the_page_about_rewards() -> None:
    page = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    snippets = "".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    examples = doctest.DocTestParser().get_doctest(snippets, {}, "docs/rewards.md", "docs/rewards.md", 0)
    failed, tried = doctest.DocTestRunner().run(examples)
    assert (failed, tried) == (0, snippets.count(">>> "))
    assert tried > 10
