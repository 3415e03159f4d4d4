"""Training steps of a configuration without rollouts: verl's own actor and reference workers on a made batch.

A process is one rank, started with torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT). Ray, vLLM and the
trainer are left out; how the configuration becomes an engine, and a batch micro-batches, is verl's
`ActorRolloutRefWorker`. A step is what the trainer makes of one: old log-probabilities, reference, update.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig, open_dict

from recipe.critic_r1.images.prompt_path import PROMPT_PATH, STOCK

MODEL_FIELDS = ("input_ids", "prompts", "position_ids", "loss_mask", "multi_modal_inputs")
"""What the engine reads of a rollout to compute log-probabilities."""

PARTS = ("old_log_prob", "ref", "update_actor")
"""Parts of a step, in verl's names."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a made rollout."""

    prompt_tokens: int
    """Text tokens of the prompt; those of its images come on top."""
    response_tokens: int
    images: tuple[tuple[int, int], ...] = ()
    """Width and height of each image in pixels."""


@dataclass
class StepResult:
    """What one step took and gave on this rank."""

    seconds: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    """Of all rollouts on this rank."""
    loss: float = 0.0
    """Of the whole mini-batch, over all ranks."""
    grad_norm: float = 0.0
    log_probs: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    """Old log-probabilities of the response tokens, one after the other."""
    ref_log_probs: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    peak_bytes: int = 0
    """Largest amount of accelerator memory that was allocated; on a CPU, of resident memory."""


def rollout(processor: Any, shape: Shape, seed: int) -> dict[str, Any]:
    """A rollout of random tokens and noise images, as it comes out of the agent loop.

    Args:
        processor: of a Qwen2.5-VL or Qwen3-VL.
        shape: its sizes.
        seed: decides tokens and pixels.

    Returns:
        verl's fields of a rollout; ``position_ids`` are (4, tokens), the others (tokens,).
    """
    from PIL import Image
    from verl.models.transformers import qwen2_vl, qwen3_vl

    draw = torch.Generator().manual_seed(seed)

    def tokens(count: int) -> torch.Tensor:
        # The 256 bytes, which every tokenizer of the family has.
        return torch.randint(0, 256, (count,), generator=draw)

    images = [
        Image.fromarray(torch.randint(0, 256, (height, width, 3), generator=draw, dtype=torch.uint8).numpy())
        for width, height in shape.images
    ]
    places = "<|vision_start|><|image_pad|><|vision_end|>" * len(images)
    made = processor(text=[places], images=images or None, return_tensors="pt")
    shown = made["input_ids"][0] if images else torch.empty(0, dtype=torch.long)
    grid = made["image_grid_thw"] if images else None
    prompt = torch.cat([shown, tokens(shape.prompt_tokens)])
    response = tokens(shape.response_tokens)
    ids = torch.cat([prompt, response])
    family = qwen3_vl if type(processor).__name__.startswith("Qwen3VL") else qwen2_vl
    seen = family.get_rope_index(processor, ids, image_grid_thw=grid, attention_mask=torch.ones_like(ids))
    return {
        "prompts": prompt,
        "responses": response,
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.cat([torch.arange(len(ids))[None], seen]),
        "response_mask": torch.ones_like(response),
        "loss_mask": torch.cat([torch.zeros_like(prompt), torch.ones_like(response)]),
        "multi_modal_inputs": {"pixel_values": made["pixel_values"], "image_grid_thw": grid} if images else {},
    }


class TrainingSteps:
    """verl's actor and reference of a configuration, in this rank's process."""

    def __init__(self, config: DictConfig) -> None:
        """Build the engines. ``config`` is a composed run; it is changed as verl changes it."""
        from verl.trainer.ppo.utils import need_reference_policy
        from verl.workers.engine_workers import ActorRolloutRefWorker

        self.config, self.prompt_path = config, STOCK
        part = config.actor_rollout_ref
        with open_dict(part):
            # The trainer's: steps of the learning rate's schedule.
            part.actor.optim.total_training_steps = max(1, part.actor.optim.total_training_steps)
        self.actor = ActorRolloutRefWorker(part, role="actor")
        self.actor.init_model()
        # With LoRA the reference is the actor without its adapters.
        self.ref_in_actor = part.model.get("lora_rank", 0) > 0
        self.ref = None
        if need_reference_policy(config) and not self.ref_in_actor:
            self.ref = ActorRolloutRefWorker(part, role="ref")
            self.ref.init_model()

    def _batch(self, rollouts: Sequence[dict[str, Any]], names: Sequence[str], **settings: Any) -> Any:
        from verl.utils import tensordict_utils

        rows = [{name: row[name] for name in names} for row in rollouts]
        data = tensordict_utils.list_of_dict_to_tensordict(rows)
        for name, column in list(data.items()):
            # Rows of one length were stacked; a run's are always ragged.
            if isinstance(column, torch.Tensor) and not column.is_nested and column.dim() == 2:
                data[name] = torch.nested.as_nested_tensor(list(column.unbind()), layout=torch.jagged)
        tensordict_utils.maybe_fix_3d_position_ids(data)
        settings |= {
            PROMPT_PATH: self.prompt_path,
            "temperature": self.config.actor_rollout_ref.rollout.temperature,
            "global_token_num": [len(row["input_ids"]) for row in rollouts],
            "pad_token_id": 0,
        }
        tensordict_utils.assign_non_tensor(data, **settings)
        return data

    def _log_probs(self, compute: Callable[..., Any], rollouts: Sequence[dict[str, Any]], **settings: Any) -> Any:
        data = self._batch(rollouts, MODEL_FIELDS, compute_loss=False, **settings)
        rows = compute(data)["log_probs"].unbind()
        # verl's are of the next token: the response's begin with the one at the prompt's last place.
        return [
            found[len(row["prompts"]) - 1 : len(row["input_ids"]) - 1].float()
            for found, row in zip(rows, rollouts, strict=True)
        ]

    def step(self, rollouts: Sequence[dict[str, Any]], mini_batch: int, *, prompt_path: str = STOCK) -> StepResult:
        """One step on this rank's rollouts.

        Args:
            rollouts: from `rollout`; as many on each rank.
            mini_batch: rollouts of an update, over all ranks.
            prompt_path: as ``critic_r1.prompt_path``.
        """
        from verl.utils import tensordict_utils
        from verl.utils.device import get_torch_device

        self.prompt_path = prompt_path
        device = get_torch_device()
        found = StepResult(tokens=sum(len(row["input_ids"]) for row in rollouts))
        device.reset_peak_memory_stats()

        def timed(part: str, work: Callable[[], Any]) -> Any:
            device.synchronize()
            begin = time.perf_counter()
            result = work()
            device.synchronize()
            found.seconds[part] = time.perf_counter() - begin
            return result

        def reference() -> Any:
            if self.ref is not None:
                return self._log_probs(self.ref.compute_ref_log_prob, rollouts, calculate_entropy=False)
            if self.ref_in_actor:
                return self._log_probs(
                    self.actor.compute_log_prob, rollouts, calculate_entropy=False, no_lora_adapter=True
                )
            return None

        # In the trainer's order. FSDP2 notes the trainable parameters at its first pass, which must not be the one that
        # switches the adapters off.
        old = timed(
            "old_log_prob", lambda: self._log_probs(self.actor.compute_log_prob, rollouts, calculate_entropy=True)
        )
        ref = timed("ref", reference)
        rows = []
        for place, row in enumerate(rollouts):
            count = len(row["responses"])
            # The rollout's own reward does not matter here; what matters is that no two tokens have the same advantage.
            advantages = torch.linspace(-1, 1, count) * (1 + place % 4)
            rows.append({**row, "old_log_probs": old[place], "advantages": advantages})
            if ref is not None:
                rows[-1]["ref_log_prob"] = ref[place]
        names = [*MODEL_FIELDS, "responses", "response_mask", "attention_mask", "old_log_probs"]
        names += ["advantages"] + (["ref_log_prob"] if ref is not None else [])
        actor = self.config.actor_rollout_ref.actor
        data = self._batch(
            rows,
            names,
            calculate_entropy=actor.calculate_entropy or actor.entropy_coeff != 0,
            global_batch_size=mini_batch,
            mini_batch_size=mini_batch,
            epochs=actor.ppo_epochs,
            seed=actor.data_loader_seed,
            dataloader_kwargs={"shuffle": actor.shuffle},
            distillation_use_topk=False,
            distillation_only=False,
        )
        metrics = tensordict_utils.get(timed("update_actor", lambda: self.actor.update_actor(data)), "metrics")
        found.loss = sum(metrics["loss"]) / len(metrics["loss"])
        found.grad_norm = sum(metrics["grad_norm"]) / len(metrics["grad_norm"])
        found.log_probs = torch.cat(old)
        found.ref_log_probs = torch.cat(ref) if ref is not None else found.ref_log_probs
        found.peak_bytes = int(device.max_memory_allocated())
        return found
