"""Prompts computed once give what verl's engine gives: log-probabilities, entropies, losses, metrics and gradients."""

import os
import pickle
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch

from recipe.critic_r1 import compat
from recipe.critic_r1.compat.pinned_sources import PROMPT_FUNCTIONS, PROMPT_REMEDY
from recipe.critic_r1.images.prompt_path import reason_for_stock
from recipe.critic_r1.images.prompts import Group, cut
from tests.images.prompt_passes import GROUPS, Case, build

ROOT = Path(__file__).parents[2]
CHECKPOINTING = {"model.enable_gradient_checkpointing": True}
BF16 = {f"actor.fsdp_config.mixed_precision.{name}_dtype": "bf16" for name in ("param", "buffer")}
LORA = {"model.lora_rank": 4, "model.lora_alpha": 8, "model.target_modules": "all-linear"}
FUSED = {"model.use_fused_kernels": True, "model.fused_kernel_options.impl_backend": "torch"}
FSDP1 = {"actor.strategy": "fsdp"}

CASES = {
    "Qwen2.5-VL": Case("qwen2_5_vl"),
    "Qwen2-VL": Case("qwen2_vl", splits=("tight",)),
    "Qwen3-VL": Case("qwen3_vl", splits=("fixed", "tight", "ample")),
    "LoRA": Case("qwen2_5_vl", LORA | CHECKPOINTING, ("tight",)),
    "fused kernels": Case("qwen3_vl", FUSED | CHECKPOINTING, ("tight",), fused=True),
    "FSDP1": Case("qwen2_5_vl", FSDP1 | FUSED | CHECKPOINTING, ("fixed",), fused=True),
    "bf16": Case("qwen3_vl", BF16 | CHECKPOINTING, ("ample",)),
    # Last: verl's replacement of the attention layers stays in the process, and its own way needs flash-attn.
    "removed padding": Case("qwen2_5_vl", {"model.use_remove_padding": True}, ("tight",), ("once",)),
}
TWO_RANKS = {
    "Qwen2.5-VL": Case("qwen2_5_vl", splits=("whole", "tight")),
    "Qwen3-VL": Case("qwen3_vl", CHECKPOINTING, ("fixed",)),
    "FSDP1": Case("qwen2_5_vl", FSDP1, ("tight",)),
}
Found = dict[tuple[str, str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    for family in sorted({case.family for case in CASES.values()}):
        build(family, folder / family)
    return folder


def run(folder: Path, cases: dict[str, Case], world: int = 1) -> list[Found]:
    """What each rank's training process gives."""
    with hydra.initialize_config_module("recipe.critic_r1.config", version_base=None):
        config = hydra.compose("demo", [f"critic_r1.run_dir={folder}"])
    job, results = folder / f"job{world}", [folder / f"result{world}.{rank}" for rank in range(world)]
    job.write_bytes(pickle.dumps((config, cases)))
    started = []
    for rank, result in enumerate(results):
        command = [sys.executable, "-m", "tests.images.prompt_passes", job, result]
        command += [str(rank), str(world), folder / f"store{world}"] if world > 1 else []
        started.append(
            subprocess.Popen(
                [str(part) for part in command],
                cwd=ROOT,
                env={**os.environ, "VERL_PLATFORM": "cpu"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
    return [pickle.loads(result.read_bytes()) for result in results]


@pytest.fixture(scope="module")
def found(folder: Path) -> Found:
    return run(folder, CASES)[0]


def error(ours: torch.Tensor, stock: torch.Tensor) -> float:
    return float((ours.float() - stock.float()).norm() / stock.float().norm().clamp(min=1e-9))


def same(ours: dict[str, Any], stock: dict[str, Any], within: float = 5e-6) -> None:
    for name in ("log_probs", "entropy"):
        assert error(ours[name], stock[name]) <= within, name
    assert float((ours["loss"] - stock["loss"]).abs()) <= within  # a difference of advantages, near zero
    assert ours["gradients"].keys() == stock["gradients"].keys()
    for name, gradient in stock["gradients"].items():
        assert error(ours["gradients"][name], gradient) <= within, name
    assert ours["metrics"].keys() == stock["metrics"].keys()
    assert ours["attention"] == stock["attention"] == "causal_sdpa"  # as it was, also in what a checkpoint saves


EXACT = [(name, split) for name, case in CASES.items() for split in case.splits if not name.startswith("bf16")]


@pytest.mark.parametrize(("name", "split"), EXACT)
def test_all_results_are_those_of_verls_way(found: Found, name: str, split: str) -> None:
    stock = found["Qwen2.5-VL" if name == "removed padding" else name, split, "stock"]
    ours = found[name, split, "once"]
    same(ours, stock)
    assert max(ours["tokens"]) > 0
    assert sum(ours["tokens"]) < sum(stock["tokens"])


def test_a_prompt_is_computed_once_where_its_group_fits(found: Found) -> None:
    images = {9: (1 * 4 + 3) + (1 * 8 + 3), 14: 0, 6: 8 + 3, 11: 4 + 3, 5: 0, 7: 4 + 3}
    once = sum(tokens + images[tokens] + sum(responses) for tokens, _, responses in GROUPS)
    assert found["Qwen2.5-VL", "ample", "once"]["tokens"] == [once, once]  # log-probabilities, update


def test_bfloat16_is_as_close_to_float32_as_verls_way_is(found: Found) -> None:
    exact = found["Qwen3-VL", "ample", "stock"]
    stock, ours = (found["bf16", "ample", path] for path in ("stock", "once"))

    def errors(part: dict[str, Any]) -> dict[str, float]:
        values = {key: error(part[key], exact[key]) for key in ("log_probs", "entropy")}
        gradients = [torch.cat([given[key].float().flatten() for key in sorted(exact["gradients"])])
                     for given in (part["gradients"], exact["gradients"])]  # fmt: skip
        return values | {"gradients": error(*gradients)}

    theirs = errors(stock)
    assert all(value > 1e-4 for value in theirs.values()), "not bfloat16"
    assert all(value <= 1.5 * theirs[key] for key, value in errors(ours).items())


@pytest.mark.slow
def test_two_ranks_agree_with_verls_way_and_with_each_other(folder: Path, found: Found) -> None:
    ranks = run(folder, TWO_RANKS, world=2)
    for name, case in TWO_RANKS.items():
        for split in case.splits:
            for rank in ranks:
                same(rank[name, split, "once"], rank[name, split, "stock"])
            counts = {len(rank[name, split, "once"]["tokens"]) for rank in ranks}
            assert len(counts) == 1


def groups(*sizes: tuple[int, list[int]]) -> list[Group]:
    made, row = [], 0
    for prompt, responses in sizes:
        made.append(Group(prompt, tuple(range(row, row + len(responses))), tuple(responses)))
        row += len(responses)
    return made


def at_least(least: int, values: list[int]) -> list[int]:
    return [max(v, least) if v > 1 else v for v in values]


def alone(values: list[int]) -> list[int]:
    return values


CUTS = [
    # prompts and responses, bound, rows of the micro-batches
    (groups((100, [10, 10, 10])), {"tokens": 130}, [[0, 1, 2]]),
    (groups((100, [10, 10, 10, 10])), {"tokens": 130}, [[0, 1], [2, 3]]),
    (groups((100, [10] * 4)), {"tokens": 110}, [[0], [1], [2], [3]]),
    (groups((50, [5, 5]), (50, [5, 5]), (100, [8])), {"tokens": 120}, [[0, 1, 2, 3], [4]]),
    # Fixed sizes: a group stays whole when it computes no more than that many rows would by themselves.
    (groups((100, [10] * 8), (100, [9] * 8)), {"rows": 4}, [list(range(8)), list(range(8, 16))]),
    (groups((10, [100] * 8)), {"rows": 2}, [[0, 1], [2, 3], [4, 5], [6, 7]]),
    (groups((9, [1]), (9, [2]), (9, [3]), (9, [4])), {"rows": 2}, [[3, 0], [2, 1]]),
    (groups((9, [1, 1]), (9, [2, 2])), {"rows": 4}, [[2, 3, 0, 1]]),
]


@pytest.mark.parametrize(("given", "bound", "wanted"), CUTS)
def test_groups_are_cut_as_late_as_possible(given: list[Group], bound: dict[str, int], wanted: list[list[int]]) -> None:
    assert cut(given, alone, **bound) == wanted


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_in_one_micro_batch_and_none_is_over_its_bound(seed: int) -> None:
    draw = random.Random(seed)
    made = groups(
        *((draw.randint(1, 300), [draw.randint(0, 90) for _ in range(draw.randint(1, 8))]) for _ in range(12))
    )
    of_row = {row: (group, length) for group in made for row, length in zip(group.rows, group.responses, strict=True)}
    for bound in ({"tokens": 400}, {"tokens": 1500}, {"rows": 1}, {"rows": 3}, {"rows": 16}):
        for least in (1, 9, len(of_row)):
            # Another rank needs at least so many.
            parts = cut(made, partial(at_least, least), **bound)
            assert sorted(row for part in parts for row in part) == sorted(of_row)
            limit = bound.get("tokens") or bound["rows"] * max(
                group.prompt + length for group, length in of_row.values()
            )
            for part in parts:
                prompts = {id(of_row[row][0]): of_row[row][0].prompt for row in part}
                assert sum(prompts.values()) + sum(of_row[row][1] for row in part) <= limit
                assert "rows" not in bound or len(prompts) == 1 or len(part) <= bound["rows"]


def test_ranks_get_the_same_number_of_micro_batches() -> None:
    few, many = groups((10, [5] * 8)), groups((10, [5] * 4), (10, [90] * 4))
    assert len(cut(many, alone, tokens=100)) == 5

    def with_the_other(values: list[int]) -> list[int]:
        return (
            [5]
            if len(values) == 1 and values[0] > 1
            else [max(values[0], 0) if values[0] > 0 else values[0], *values[1:]]
        )

    assert len(cut(many, with_the_other, tokens=100)) == 5
    parts = cut(few, lambda values: [max(values[0], 5)] if values != [0] and len(values) == 1 else values, tokens=100)
    assert len(parts) == 5
    assert sorted(row for part in parts for row in part) == list(range(8))


def test_a_rollout_over_the_bound_is_an_error_on_every_rank() -> None:
    with pytest.raises(ValueError, match="5 tokens more than the 100"):
        cut(groups((90, [15, 2])), alone, tokens=100)
    with pytest.raises(ValueError, match="3 tokens more"):
        cut(groups((10, [2])), lambda values: [3, *values[1:]], tokens=100)


def test_more_micro_batches_than_rollouts_are_an_error() -> None:
    with pytest.raises(ValueError, match="4 micro-batches are needed, but a rank has only 2"):
        cut(groups((10, [2, 2])), lambda values: [4] if len(values) == 1 else values, tokens=100)


class Text:
    layer_types: tuple[str, ...] = ("full_attention",)
    attention_dropout = 0.0


class Sliding(Text):
    layer_types = ("full_attention", "sliding_attention")


class Dropout(Text):
    attention_dropout = 0.1


REASONS = [
    (Text, "qwen3_vl", 1, None),
    (Text, "mllama", 1, "mllama"),
    (Text, "qwen3_vl", 2, "ulysses"),
    (Sliding, "qwen2_vl", 1, "sliding"),
    (Dropout, "qwen2_vl", 1, "dropout"),
]


@pytest.mark.parametrize(("text", "model_type", "parallel", "reason"), REASONS)
def test_what_is_not_covered_is_computed_verls_way(
    text: type[Text], model_type: str, parallel: int, reason: str | None
) -> None:
    found = reason_for_stock(text, model_type, parallel)
    assert found == reason if reason is None else reason in str(found)


def test_verl_is_the_one_that_this_code_was_written_against() -> None:
    compat.check_sources(PROMPT_FUNCTIONS, PROMPT_REMEDY)
