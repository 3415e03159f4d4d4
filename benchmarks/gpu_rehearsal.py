"""The training engine of `r1` on one GPU, with real architectures and random weights: memory and time of each part.

    python -m benchmarks.gpu_rehearsal                                      # 3B whole, 7B with LoRA: one 140 GB GPU
    python -m benchmarks.gpu_rehearsal --on-cpu --architecture tiny_qwen2_5_vl --out RESULT.json

No network, Ray or rollout engine takes part. Each model trains on a prompt's rollouts with an image of three sizes,
each prompt computed for every rollout (`stock`) and once (`once`), after a step that warms up. The 7B model is trained
with LoRA: its float32 weights, gradients and Adam state alone are 124 GiB.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from omegaconf import open_dict

from benchmarks import harness
from recipe.critic_r1.images.prompt_path import ONCE, STOCK

ROLLOUTS = 8
"""Of one prompt, in one update."""

SIDES = {"small": 512, "medium": 1024, "limit": 2048}
"""Of a square image in pixels; the last is the release's limit of 4,194,304."""

TINY_SIDES = {"small": 56, "medium": 84, "limit": 112}

TEXT_TOKENS, TINY_TEXT_TOKENS = 512, 16
"""Of a prompt beside its image, and of a response."""


def measure(architecture: str, overrides: list[str], sides: dict[str, int], tokens: int, folder: Path) -> Any:
    """Steps of one model at each image size, on both ways of computing prompts.

    Args:
        architecture: a shipped one, see `recipe.critic_r1.rehearsal.architectures`.
        overrides: of `r1`.
        sides: image sizes by name, the smallest first.
        tokens: text tokens of a prompt, and of a response.
        folder: for the model's files.
    """
    import verl  # noqa: F401  (loads the plug-in)
    from verl.utils import hf_processor

    from recipe.critic_r1.preflight.memory_estimate import GIB, total, training_lines
    from recipe.critic_r1.preflight.model_shape import ModelShape
    from recipe.critic_r1.rehearsal import architectures, random_model
    from recipe.critic_r1.rehearsal.training_steps import Shape, TrainingSteps, rollout
    from recipe.critic_r1.train import compose_config

    sizes = architectures.architecture(architecture)
    model, shape = random_model.make_model(sizes, folder / architecture), ModelShape.from_config(sizes)
    assert shape is not None
    common = ["trainer.n_gpus_per_node=1", "trainer.nnodes=1", f"actor_rollout_ref.model.path={model}"]
    config = compose_config("r1", [*overrides, *common])
    steps, processor = TrainingSteps(config), hf_processor(str(model))
    found: dict[str, Any] = {}
    for name, side in {"warm-up": min(sides.values()), **sides}.items():
        found[name] = {"image": [side, side]}
        # Lengths that differ, as those of real rollouts: verl packs a batch of one length in another form.
        made = [rollout(processor, Shape(tokens, tokens - i, ((side, side),)), 0) for i in range(ROLLOUTS)]
        prompt = len(made[0]["prompts"])
        for way in (STOCK, ONCE):
            step = steps.step(made, ROLLOUTS, prompt_path=way)
            with open_dict(config):
                config.data.update(max_prompt_length=prompt, max_response_length=tokens)
                config.data.mm_processor_kwargs = {"max_pixels": side**2}
                config.critic_r1.prompt_path = way
            found[name][way] = {
                "tokens": step.tokens,
                "seconds": step.seconds,
                "tokens_per_second": step.tokens / sum(step.seconds.values()),
                "peak_gib": step.peak_bytes / GIB,
                "estimated_gib": total(training_lines(shape, config)),
            }
    del found["warm-up"]
    return found


def main(
    architecture: Annotated[list[str] | None, typer.Option(help="Architecture; may be repeated.")] = None,
    on_cpu: Annotated[bool, typer.Option("--on-cpu", help="Try the script without a GPU, with small sizes.")] = False,
    out: harness.Out = harness.RESULTS / "gpu_rehearsal.json",
) -> None:
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ.setdefault("MASTER_PORT", "29531")
    if on_cpu:
        os.environ |= {"VERL_PLATFORM": "cpu", "TORCHDYNAMO_DISABLE": "1"}
    found: dict[str, Any] = {}
    for name in architecture or ["qwen2_5_vl_3b", "qwen2_5_vl_7b"]:
        # Needs no flash-attn, which a machine without a network may lack.
        overrides = ["+actor_rollout_ref.model.override_config.attn_implementation=packed_sdpa"]
        if on_cpu:
            overrides = ["+device=cpu"]
        if name not in ("qwen2_5_vl_3b", "tiny_qwen2_5_vl", "tiny_qwen3_vl"):
            overrides += ["tuning=lora"]
        with tempfile.TemporaryDirectory() as folder:
            sides, tokens = (TINY_SIDES, TINY_TEXT_TOKENS) if on_cpu else (SIDES, TEXT_TOKENS)
            found[name] = measure(name, overrides, sides, tokens, Path(folder))
        print(json.dumps({name: found[name]}, indent=1), flush=True)
        # After each model: the time on a machine may end before the next.
        harness.write(out, {"device": _device(), "models": found})


def _device() -> str:
    from verl.utils.device import get_torch_device

    return str(get_torch_device().get_device_name())


if __name__ == "__main__":
    typer.run(main)
