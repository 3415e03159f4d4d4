"""The reward function: it loads, knows its options, and gives the gold answers of the data full reward."""

import difflib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.critic_r1.preflight.data_files import files
from recipe.critic_r1.preflight.finding import Finding

CALLED_WITH = {"data_source", "solution_str", "ground_truth", "extra_info"}
SAMPLE = 200
"""Rows whose gold answer is scored."""

OWN = "reward_fns"


def _load(config: DictConfig) -> tuple[Callable[..., Any] | None, dict[str, Any]]:
    from verl.utils.import_utils import load_extern_object

    settings = config.reward.custom_reward_function
    options = OmegaConf.to_container(settings.get("reward_kwargs") or OmegaConf.create({}), resolve=True)
    function = None if settings.path is None else load_extern_object(settings.path, settings.name)
    return function, options  # type: ignore[return-value]


def options(config: DictConfig) -> Iterator[Finding]:
    """The function loads, knows each option, and accepts its value."""
    try:
        function, given = _load(config)
    except Exception as error:
        yield Finding(
            "reward function",
            "fail",
            f"{config.reward.custom_reward_function.path}:{config.reward.custom_reward_function.name} does not load "
            f"({type(error).__name__}: {error})",
            "Check reward.custom_reward_function.path and name.",
        )
        return
    if function is None:
        return
    unknown = list(unknown_options(function, given))
    for name, known in unknown:
        close = difflib.get_close_matches(name.rsplit(".", 1)[-1], known, 1)
        yield Finding(
            "reward_kwargs",
            "fail",
            f"{config.reward.custom_reward_function.path} has no option {name}"
            + (f"; did you mean {close[0]}?" if close else ""),
            f"Its options are {', '.join(sorted(known))}." if known else "It has no options.",
        )
    if unknown:
        return
    try:
        function(data_source="critic/check", solution_str="", ground_truth="1", extra_info={}, **given)
    except ValueError as error:
        yield Finding("reward_kwargs", "fail", str(error), "Correct reward.custom_reward_function.reward_kwargs.")
    except Exception as error:
        yield Finding(
            "reward function",
            "warn",
            f"it raises on an empty response ({type(error).__name__}: {error}); verl loses the whole group then",
            "Let a reward return a score for whatever a model writes.",
        )


def unknown_options(function: Callable[..., Any], given: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Options that the function does not have, each with the list of those that it has.

    Our own rewards accept any keyword, because verl's managers pass some of theirs, but use only the named ones. A
    third-party function with ``**kwargs`` may use any.
    """
    known, open_ended = _keywords(function)
    own = OWN in str(getattr(function, "__module__", "")) or OWN in inspect.getsourcefile(function).split("/")  # type: ignore[union-attr]
    if own and known == ["routes"]:
        yield from _unknown_of_mixed(given)
    elif own or not open_ended:
        yield from ((name, known) for name in given if name not in known)


def _keywords(function: Callable[..., Any]) -> tuple[list[str], bool]:
    parameters = inspect.signature(function).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [name for name in named if name not in CALLED_WITH], any(p.kind is p.VAR_KEYWORD for p in parameters)


def _unknown_of_mixed(given: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    import importlib

    rewards = ("preference", "pointwise", "nway", "answer")
    for name, value in given.items():
        if name == "routes":
            continue
        if name not in rewards:
            yield name, [*rewards, "routes"]
            continue
        known, _ = _keywords(importlib.import_module(f"{OWN}.{name}").compute_score)
        yield from ((f"{name}.{option}", known) for option in value or {} if option not in known)


def gold(config: DictConfig) -> Iterator[Finding]:
    """The configured reward gives the gold answers of a sample of rows full reward."""
    try:
        function, given = _load(config)
    except Exception:
        return  # reported by `options`
    if function is None or list(unknown_options(function, given)):
        return
    # A reward that pays for the form of the thoughts says what they are in a gold answer.
    thoughts = getattr(function, "__globals__", {}).get("gold_thoughts", lambda truth, **options: "I looked.")
    for path in files(config.data.train_files):
        scored, short = 0, []
        for number, row in _sample(path):
            truth = (row["reward_model"] or {}).get("ground_truth")
            think = "" if given.get("prefilled") else "<think>"
            try:
                response = f"{think}{thoughts(truth, **given)}</think>\\boxed{{{truth}}}"
                result = function(
                    data_source=row["data_source"], solution_str=response, ground_truth=truth, extra_info={}, **given
                )
                score = float(result["score"] if isinstance(result, dict) else result)
            except Exception as error:
                yield Finding(
                    "gold answers",
                    "fail",
                    f"{path}, row {number}: the reward raises on the gold answer ({type(error).__name__}: {error})",
                    "Check the row's label and the reward.",
                )
                return
            scored += 1
            if score < 1.0:
                short.append((number, row["data_source"], truth, score))
        if short:
            number, source, truth, score = short[0]
            yield Finding(
                "gold answers",
                "fail" if len(short) == scored else "warn",
                f"{path}: the gold answer of {len(short)} of {scored} rows earns less than 1, e.g. row {number} "
                f"({source}, label {truth!r}): {score:g}",
                "The reward does not match the data_source: use reward_fns.preference for critic/ rows, "
                "reward_fns.answer for policy/ rows, reward_fns.mixed for both.",
            )
        elif scored:
            yield Finding("gold answers", "pass", f"{scored} rows of {path.name} earn 1.0")


def _sample(path: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            table = file.read(columns=["data_source", "reward_model"])
    except (OSError, KeyError, pa.ArrowException):
        return  # reported by the data check
    if {"data_source", "reward_model"} <= set(table.column_names) and table.num_rows:
        every = max(1, table.num_rows // SAMPLE)
        for number in range(0, table.num_rows, every):
            yield number, table.slice(number, 1).to_pylist()[0]
