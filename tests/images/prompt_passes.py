"""What verl's training engine computes with prompts computed once and verl's way; a training worker's process.

    python -m tests.images.prompt_passes JOB RESULT [RANK WORLD STORE]

``JOB`` is a pickle of ``(config, cases)``: verl's composed configuration and the `Case` of each name. ``RESULT`` gets
for each case, split and path what the passes of a step give.
"""

import os
import pickle
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import verl  # noqa: F401  (loads the plug-in)
from omegaconf import OmegaConf, open_dict
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine import EngineRegistry
from verl.workers.utils.losses import ppo_loss

from recipe.critic_r1.training.trainer import SCORED_FIELDS

IMAGE, VIDEO, VISION_START = 5, 6, 7
VOCABULARY = 64
SPLITS = {
    "single": {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 1},
    "fixed": {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 4},
    "whole": {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 8},
    "tight": {"use_dynamic_bsz": True, "max_token_len_per_gpu": 42},
    "ample": {"use_dynamic_bsz": True, "max_token_len_per_gpu": 400},
}
GROUPS = [
    # prompt tokens without images, grids of the images, tokens of the responses
    (9, [(1, 4, 4), (1, 4, 8)], [5, 9, 2]),
    (14, [], [7, 7, 7]),
    (6, [(1, 8, 4)], [8]),
    (11, [(1, 4, 4)], [12, 1, 0, 4]),
    (5, [], [3]),
    # The same prompt with another image, and one prompt for several groups' images.
    (11, [(1, 4, 4)], [2, 6]),
    (7, [(1, 4, 4)], [4, 3]),
]


@dataclass(frozen=True)
class Case:
    """An engine and what is asked of it."""

    family: str
    overrides: dict[str, Any] = field(default_factory=dict)
    splits: tuple[str, ...] = tuple(SPLITS)
    paths: tuple[str, ...] = ("stock", "once")
    fused: bool = False


def build(family: str, folder: Path) -> None:
    """A tiny model of a family, without a processor."""
    import transformers

    name = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}[family]
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": VOCABULARY, "max_position_embeddings": 256}  # fmt: skip
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "intermediate_size": 32, "patch_size": 14, "in_channels": 3}
    if family == "qwen3_vl":
        rope["mrope_interleaved"] = True
        text["head_dim"] = 16
        vision |= {"hidden_size": 16, "out_hidden_size": 32, "deepstack_visual_indexes": [0, 1]}
        vision["num_position_embeddings"] = 64
    elif family == "qwen2_5_vl":
        vision |= {"hidden_size": 16, "out_hidden_size": 32, "window_size": 56, "fullatt_block_indexes": [1]}
    else:
        vision |= {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    config = getattr(transformers, f"{name}Config")(
        text_config={**text, "rope_parameters": rope, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    from recipe.critic_r1.demo.model import build_tokenizer

    build_tokenizer().save_pretrained(folder)


def rows(model: Any) -> list[dict[str, torch.Tensor]]:
    """Rollouts as they come out of TransferQueue, those of a prompt apart from each other."""
    torch.manual_seed(1)
    found: list[list[dict[str, Any]]] = []
    prompts: dict[int, torch.Tensor] = {}
    for tokens, grids, responses in GROUPS:
        if tokens not in prompts:
            parts = [torch.randint(10, VOCABULARY, (tokens,))]
            for grid in grids:
                placeholders = torch.full((grid[1] * grid[2] // 4,), IMAGE)
                parts += [torch.tensor([VISION_START]), placeholders, torch.randint(10, VOCABULARY, (2,))]
            prompts[tokens] = torch.cat(parts)
        prompt = prompts[tokens]
        inputs: dict[str, torch.Tensor] = {}
        if grids:
            patches = sum(grid[1] * grid[2] for grid in grids)
            inputs = {"pixel_values": torch.randn(patches, 1176), "image_grid_thw": torch.tensor(grids)}
        group = []
        for length in responses:
            response = torch.randint(10, VOCABULARY, (length,))
            ids = torch.cat([prompt, response])
            kinds = (ids == IMAGE).int()
            if grids:
                three, _ = model.model.get_rope_index(
                    ids[None], image_grid_thw=inputs["image_grid_thw"], mm_token_type_ids=kinds[None]
                )
                three = three[:, 0]
            else:
                three = torch.arange(len(ids)).expand(3, -1)
            group.append(
                {
                    "input_ids": ids,
                    "prompts": prompt,
                    "responses": response,
                    "position_ids": torch.cat([torch.arange(len(ids))[None], three]).long(),
                    "multi_modal_inputs": inputs,
                    "loss_mask": torch.cat([torch.zeros_like(prompt), torch.ones_like(response)]),
                    "response_mask": torch.ones_like(response),
                    "attention_mask": torch.ones_like(ids),
                    "old_log_probs": torch.randn(length) * 0.1 - 4,
                    "ref_log_prob": torch.randn(length) * 0.1 - 4,
                    "advantages": torch.randn(1).expand(length).clone(),
                }
            )
        found.append(group)
    longest = max(map(len, found))
    return [group[i] for i in range(longest) for group in found if i < len(group)]


def batch_of(rows: list[dict[str, Any]], fields: list[str], everything: int, **settings: Any) -> Any:
    data = tu.list_of_dict_to_tensordict([{name: row[name] for name in fields} for row in rows])
    tu.maybe_fix_3d_position_ids(data)
    common = {"use_remove_padding": False, "temperature": 0.9, "calculate_entropy": True, "pad_token_id": 0}
    common |= {"global_batch_size": everything, "mini_batch_size": everything}
    tu.assign_non_tensor(data, **common, **settings)
    return data


def passes(engine: Any, actor: Any, rows: list[dict[str, Any]], everything: int, **settings: Any) -> dict[str, Any]:
    computed: list[int] = []

    def count(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        computed.append((kwargs["input_ids"] if "input_ids" in kwargs else args[0]).numel())

    hook = engine.module.register_forward_pre_hook(count, with_kwargs=True)
    scored = batch_of(rows, SCORED_FIELDS, everything, **settings)
    with engine.eval_mode():
        inferred = engine.infer_batch(scored, loss_function=None)["model_output"]
    with engine.train_mode():
        engine.optimizer_zero_grad()
        updated = engine.forward_backward_batch(
            batch_of(rows, list(rows[0]), everything, **settings), partial(ppo_loss, config=actor)
        )
        gradients = {
            name: (p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad).clone()
            for name, p in engine.module.named_parameters()
            if p.grad is not None
        }
    hook.remove()

    def predicted(name: str) -> torch.Tensor:
        whole = zip(rows, inferred[name].unbind(), strict=True)
        return torch.cat([values[len(row["prompts"]) - 1 : len(values) - 1] for row, values in whole])

    return {
        "log_probs": predicted("log_probs").float(),
        "entropy": predicted("entropy").float(),
        "loss": torch.tensor(updated["loss"]).sum(),
        "gradients": gradients,
        "metrics": updated["metrics"],
        "tokens": computed,
        "attention": engine.module.config.text_config._attn_implementation,
    }


def engine_of(config: Any, case: Case, folder: Path) -> tuple[Any, Any]:
    """The actor's engine of a case, and the actor's configuration."""
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    with open_dict(config):
        config.actor_rollout_ref.model.path = str(folder / case.family)
        for name, value in case.overrides.items():
            OmegaConf.update(config, f"actor_rollout_ref.{name}", value, force_add=True)
    part = config.actor_rollout_ref
    actor, model = omega_conf_to_dataclass(part.actor), omega_conf_to_dataclass(part.model)
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
    return engine, actor


def main(job: Path, result: Path, rank: int = 0, world: int = 1, store: str = "") -> None:
    torch.set_num_threads(1)
    config, cases = pickle.loads(job.read_bytes())
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    distributed: Any = torch.distributed  # its type information leaves the stores out
    shared = distributed.FileStore(store, world) if store else distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=shared, rank=rank, world_size=world)
    found = {}
    for name, case in cases.items():
        engine, actor = engine_of(config, case, job.parent)
        import transformers

        model = transformers.AutoModelForImageTextToText.from_pretrained(job.parent / case.family)
        batch = rows(model)
        mine = batch[rank * len(batch) // world : (rank + 1) * len(batch) // world]
        for split in case.splits:
            for path in case.paths:
                settings = SPLITS[split] | {"prompt_path": path, "use_fused_kernels": case.fused}
                found[name, split, path] = passes(engine, actor, mine, len(batch), **settings)
    result.write_bytes(pickle.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    rank, world, store = [*sys.argv[3:], "0", "1", ""][:3]
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(rank), int(world), store)
