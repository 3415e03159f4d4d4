"""Time and memory of a step's training passes, with a prompt computed once and for each response, in verl's own engine.

    python -m benchmarks.shared_prompt --out benchmarks/results/shared_prompt.json

A Qwen2.5-VL of 20 million parameters on two threads, gradient checkpointing on as in `r1`; one group of n rollouts a
micro-batch, an image of 96 tokens in the prompt, responses of 200 to 250 tokens. Old log-probabilities (with entropy),
reference (without) and update are timed one after the other, and the paths in turn, in one process.

Time is CPU time of the process, which other work on the machine hardly touches; wall time is written down as well.
Memory is the highest resident memory of a pass above that before it, with gradients allocated beforehand: activations,
logits and what the pass makes on its way. Large blocks are returned to the system as soon as they are free.
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer

from recipe.critic_r1 import provenance

POINTS = ((1200, 8), (300, 8), (600, 8), (1200, 4), (1200, 16))
"""Tokens of the prompt, rollouts."""

RESPONSE = 250
"""Tokens of the longest response."""

PATHS = ("stock", "once")
PASSES = ("old log-probabilities", "reference", "update")
IMAGE, GRID = 5, (1, 16, 24)

TEXT = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": 8000, "max_position_embeddings": 4096, "bos_token_id": 0,
        "eos_token_id": 1, "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}}  # fmt: skip
VISION = {"depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 128, "out_hidden_size": 512,
          "window_size": 56, "fullatt_block_indexes": [1]}  # fmt: skip


def build(folder: Path) -> None:
    """The model, with random weights and no processor."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from recipe.critic_r1.demo.model import build_tokenizer

    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=TEXT,
            vision_config=VISION,
            image_token_id=IMAGE,
            video_token_id=6,
            vision_start_token_id=7,
            tie_word_embeddings=False,
        )
    ).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def engine_of(folder: Path) -> tuple[Any, Any]:
    """verl's engine for this model as a training worker makes it, and the actor's configuration."""
    import hydra
    import verl  # noqa: F401  (loads the plug-in)
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.engine import EngineRegistry

    import recipe.critic_r1.cpu.fsdp_engine  # noqa: F401  (registers itself)

    changes = [f"critic_r1.run_dir={folder}", f"actor_rollout_ref.model.path={folder}"]
    changes.append("actor_rollout_ref.model.enable_gradient_checkpointing=true")
    with hydra.initialize_config_module("recipe.critic_r1.config", version_base=None):
        part = hydra.compose("demo", changes).actor_rollout_ref
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


def rollouts(prompt_tokens: int, n: int) -> list[dict[str, Any]]:
    """Rollouts of one prompt with an image, as the trainer hands them to a worker."""
    torch.manual_seed(prompt_tokens)
    side = [GRID[1] // 2, GRID[2] // 2]
    prompt = torch.randint(10, TEXT["vocab_size"], (prompt_tokens,))  # type: ignore[call-overload]
    image = slice(8, 8 + side[0] * side[1])
    prompt[7], prompt[image] = 7, IMAGE
    inputs = {"pixel_values": torch.randn(GRID[1] * GRID[2], 1176), "image_grid_thw": torch.tensor([GRID])}
    rows = []
    for i in range(n):
        length = RESPONSE - i % 6 * 10
        response = torch.randint(10, TEXT["vocab_size"], (length,))  # type: ignore[call-overload]
        steps = torch.arange(prompt_tokens + length)
        positions = steps.expand(4, -1).clone()
        positions[1, image] = 8
        positions[2, image] = 8 + torch.arange(side[0]).repeat_interleave(side[1])
        positions[3, image] = 8 + torch.arange(side[1]).repeat(side[0])
        positions[1:, image.stop :] += max(side) - side[0] * side[1]
        rows.append(
            {
                "input_ids": torch.cat([prompt, response]),
                "prompts": prompt,
                "responses": response,
                "position_ids": positions,
                "multi_modal_inputs": inputs,
                "loss_mask": torch.cat([torch.zeros_like(prompt), torch.ones_like(response)]),
                "response_mask": torch.ones_like(response),
                "attention_mask": torch.ones_like(steps),
                "old_log_probs": torch.full((length,), -9.0),
                "ref_log_prob": torch.full((length,), -9.0),
                "advantages": torch.full((length,), float(i % 2) - 0.5),
            }
        )
    return rows


def _memory(name: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def measured(engine: Any, actor: Any, rows: list[dict[str, Any]], path: str) -> dict[str, dict[str, float]]:
    """CPU seconds, wall seconds and bytes of each pass; and the results, for comparison."""
    from verl.utils import tensordict_utils as tu
    from verl.workers.utils.losses import ppo_loss
    from verl.workers.utils.padding import response_from_nested

    found: dict[str, Any] = {}

    def timed(name: str, run: Any) -> Any:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before, cpu, wall = _memory("VmRSS"), time.process_time(), time.perf_counter()
        result = run()
        found[name] = {
            "cpu_seconds": time.process_time() - cpu,
            "wall_seconds": time.perf_counter() - wall,
            "bytes": _memory("VmHWM") - before,
        }
        return result

    def batch(entropy: bool) -> Any:
        data = tu.list_of_dict_to_tensordict(rows)
        for name in ("prompts", "responses"):  # nested also where all are of one length, as from TransferQueue
            data[name] = torch.nested.as_nested_tensor([row[name] for row in rows], layout=torch.jagged)
        tu.maybe_fix_3d_position_ids(data)
        tu.assign_non_tensor(
            data,
            use_remove_padding=False,
            use_fused_kernels=False,
            use_dynamic_bsz=False,
            micro_batch_size_per_gpu=len(rows),
            temperature=1.0,
            calculate_entropy=entropy,
            pad_token_id=0,
            global_batch_size=len(rows),
            mini_batch_size=len(rows),
            prompt_path=path,
        )
        return data

    with engine.eval_mode():
        scored = timed(PASSES[0], lambda: engine.infer_batch(batch(True), loss_function=None))["model_output"]
        timed(PASSES[1], lambda: engine.infer_batch(batch(False), loss_function=None))
    with engine.train_mode():
        for parameter in engine.module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        loss = partial(ppo_loss, config=actor)
        timed(PASSES[2], lambda: engine.forward_backward_batch(batch(False), loss))
        gradients = [parameter.grad.full_tensor().clone() for parameter in engine.module.parameters()]
    masks = torch.nested.as_nested_tensor([row["response_mask"] for row in rows], layout=torch.jagged)
    found["log_probs"] = response_from_nested(scored["log_probs"], masks).values()
    found["gradients"] = gradients
    return found


def point(engine: Any, actor: Any, prompt_tokens: int, n: int, repeats: int) -> dict[str, Any]:
    """Both paths in turn; of several repetitions the fastest."""
    rows = rollouts(prompt_tokens, n)
    runs: dict[str, list[dict[str, Any]]] = {path: [] for path in PATHS}
    for _ in range(repeats):
        for path in PATHS:
            runs[path].append(measured(engine, actor, rows, path))
    best: dict[str, Any] = {
        path: {name: {key: min(run[name][key] for run in runs[path]) for key in runs[path][0][name]} for name in PASSES}
        for path in PATHS
    }
    answers = sum(len(row["responses"]) for row in rows)
    stock, once = (runs[path][0] for path in PATHS)
    together = {path: sum(best[path][name]["cpu_seconds"] for name in PASSES) for path in PATHS}
    peaks = {path: max(best[path][name]["bytes"] for name in PASSES) for path in PATHS}
    return {
        "prompt_tokens": prompt_tokens,
        "n": n,
        "tokens_ratio": (n * prompt_tokens + answers) / (prompt_tokens + answers),
        **best,
        "time_ratio": together["stock"] / together["once"],
        "memory_ratio": peaks["stock"] / peaks["once"],
        "log_probs_differ_by": float((stock["log_probs"] - once["log_probs"]).abs().max()),
        "gradients_differ_by": max(
            float((a - b).norm() / a.norm().clamp(min=1e-12))
            for a, b in zip(stock["gradients"], once["gradients"], strict=True)
        ),
    }


def plot(points: list[dict[str, Any]], path: Path) -> None:
    """Ratios over tokens of the prompt, at n = 8."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = sorted((found for found in points if found["n"] == 8), key=lambda found: found["prompt_tokens"])
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, label in (("time_ratio", "time"), ("memory_ratio", "memory"), ("tokens_ratio", "tokens computed")):
        style = "--" if name == "tokens_ratio" else "-"
        axes.plot([found["prompt_tokens"] for found in shown], [found[name] for found in shown], style, marker="o",
                  label=label)  # fmt: skip
    axes.set(xlabel="tokens of the prompt", ylabel="times less with prompts computed once", ylim=(0, None))
    axes.set_title("Training passes of a step, n = 8, responses of 200 to 250 tokens")
    axes.legend()
    figure.savefig(path)


def main(out: Annotated[Path, typer.Option(help="JSON file; a plot is written beside it.")], repeats: int = 2) -> None:
    """Measure every point, and write the results."""
    torch.set_num_threads(2)
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    with TemporaryDirectory() as name:
        build(Path(name))
        engine, actor = engine_of(Path(name))
        measured(engine, actor, rollouts(150, 2), "stock")
        measured(engine, actor, rollouts(150, 2), "once")
        points = []
        for prompt_tokens, n in POINTS:
            points.append(point(engine, actor, prompt_tokens, n, repeats if n * prompt_tokens < 5000 else 1))
            last = points[-1]
            print(f"{prompt_tokens} + {RESPONSE}, n = {n}: time {last['time_ratio']:.2f}, memory "
                  f"{last['memory_ratio']:.2f}, tokens {last['tokens_ratio']:.2f}", flush=True)  # fmt: skip
            result = {
                "machine": provenance.machine(),
                "versions": provenance.versions(),
                "parameters": sum(parameter.numel() for parameter in engine.module.parameters()),
                "points": points,
            }
            # After each point: the later ones take minutes.
            out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            plot(points, out.with_suffix(".svg"))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    # Read when a process starts: large blocks come from the system one by one, and go back to it when they are free.
    settings = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", "VERL_PLATFORM": "cpu"}
    if any(os.environ.get(name) != value for name, value in settings.items()):
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.shared_prompt", *sys.argv[1:]],
                  {**os.environ, **settings})  # fmt: skip
    typer.run(main)
