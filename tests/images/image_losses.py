"""What verl's training engine computes from batches of rollouts; a process of its own, as a training worker is.

    python -m tests.images.image_losses BATCHES RESULT

``BATCHES`` is a pickle of the configuration and of the records of each path, as they come out of TransferQueue; on the
path ``once`` the engine is asked to compute a prompt once.
``RESULT`` gets, for each path and for micro-batches of a fixed and of a changing size, what the passes of a step give:
log-probabilities and entropies (forward only, as for the old log-probabilities and the reference), loss and gradients
(update); and the order in which images were announced and asked for.
"""

import os
import pickle
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import verl  # noqa: F401  (loads the plug-in)
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine import EngineRegistry
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import response_from_nested

from recipe.critic_r1.cpu import fsdp_engine as _registers_cpu_engine  # noqa: F401
from recipe.critic_r1.images.encoded import ImageInputs, pixel_cache
from recipe.critic_r1.images.prompt_path import PROMPT_PATH
from recipe.critic_r1.training.trainer import SCORED_FIELDS

SPLITS = {
    "single": {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 1},
    "fixed": {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 4},
    "dynamic": {"use_dynamic_bsz": True, "max_token_len_per_gpu": 400},
}


FIELDS = [*SCORED_FIELDS, "responses", "response_mask"]


def batch_of(records: list[dict[str, Any]], split: dict[str, Any], fields: list[str] = FIELDS) -> Any:
    """Records as the trainer hands them to a worker, with advantages that differ from token to token."""
    rows = []
    for i, record in enumerate(records):
        tokens = len(record["responses"])
        row = {name: record[name] for name in fields}
        if fields == FIELDS:
            row |= {
                "attention_mask": torch.ones_like(record["input_ids"]),
                "old_log_probs": record["rollout_log_probs"],
                "ref_log_prob": record["rollout_log_probs"] - 0.25,
                "advantages": torch.linspace(-1, 1, tokens) * (i + 1),
            }
        rows.append(row)
    data = tu.list_of_dict_to_tensordict(rows)
    tu.maybe_fix_3d_position_ids(data)
    settings = {
        "use_remove_padding": False,
        "use_fused_kernels": False,
        "temperature": 1.0,
        "calculate_entropy": True,
        "pad_token_id": 0,
        "global_batch_size": len(records),
        "mini_batch_size": len(records),
    }
    tu.assign_non_tensor(data, **settings, **split)
    return data


def predicted(values: Any, records: list[dict[str, Any]]) -> torch.Tensor:
    """What is computed for response tokens, of all rollouts; it is at the place before each token."""
    found: torch.Tensor = response_from_nested(
        values, torch.nested.as_nested_tensor([record["responses"] for record in records], layout=torch.jagged)
    ).values()
    return found


def passes(engine: Any, actor: Any, path: str, records: list[dict[str, Any]], split: dict[str, Any]) -> dict[str, Any]:
    asked_for = split | {PROMPT_PATH: path}
    pixel_cache.cache_clear()
    cache = pixel_cache()
    announced: list[list[str]] = []
    asked: list[str] = []
    expect, get = cache.expect, cache.get

    def expecting(inputs: Iterable[Any], **how: bool) -> None:
        inputs = list(inputs)
        announced.append([item.key for item in inputs if isinstance(item, ImageInputs)])
        expect(inputs, **how)

    def getting(inputs: Any) -> torch.Tensor:
        asked.append(inputs.key)
        return get(inputs)

    cache.expect, cache.get = expecting, getting  # type: ignore[method-assign]
    with engine.eval_mode():
        inferred = engine.infer_batch(batch_of(records, asked_for, SCORED_FIELDS), loss_function=None)["model_output"]
    with engine.train_mode():
        engine.optimizer_zero_grad()
        updated = engine.forward_backward_batch(batch_of(records, asked_for), partial(ppo_loss, config=actor))
        gradients = {name: p.grad.full_tensor().clone() for name, p in engine.module.named_parameters()
                     if p.grad is not None}  # fmt: skip
    return {
        "log_probs": inferred["log_probs"].values(),
        "entropy": inferred["entropy"].values(),
        "predicted log_probs": predicted(inferred["log_probs"], records),
        "predicted entropy": predicted(inferred["entropy"], records),
        "loss": torch.tensor(updated["loss"]),
        "total loss": torch.tensor(updated["loss"]).sum(),
        "gradients": gradients,
        "made": cache.take_counts().made,
        "announced": announced,
        "asked": asked,
    }


def main(batches: Path, result: Path) -> None:
    given = pickle.loads(batches.read_bytes())
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    part = given["config"].actor_rollout_ref
    actor = omega_conf_to_dataclass(part.actor)
    model = omega_conf_to_dataclass(part.model)
    actor.model_config = model
    engine = EngineRegistry.new(
        model_type="language_model",
        backend=actor.strategy,
        model_config=model,
        engine_config=actor.engine,
        optimizer_config=actor.optim,
        checkpoint_config=actor.checkpoint,
    )
    engine.initialize()
    found = {
        (path, name): passes(engine, actor, path, records, split)
        for path, records in given["records"].items()
        for name, split in SPLITS.items()
    }
    result.write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
