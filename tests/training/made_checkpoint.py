"""Checkpoints as verl leaves them, of a tiny Qwen2.5-VL: all weights trained, or LoRA adapters."""

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from recipe.critic_r1.training import checkpoints

RANK, ALPHA = 4, 8


@cache
def base_model() -> Path:
    """The model that the runs start from; made once."""
    from recipe.critic_r1.demo.model import build_model

    return build_model(Path(mkdtemp(prefix="critic-r1-base-")), seed=0)


def checkpoint(folder: Path, step: int, *, finished: bool = True, lora: bool = False) -> Path:
    """``global_step_N`` in ``folder``, with its Hugging Face folder; the weights depend on the step.

    The last lines are those of `FSDPCheckpointManager.save_checkpoint` of verl 0.9.1 with ``hf_model``.
    """
    actor = folder / f"global_step_{step}" / "actor"
    place = actor / "huggingface"
    shutil.copytree(base_model(), place, ignore=shutil.ignore_patterns("*.safetensors"))
    model: Any = AutoModelForImageTextToText.from_pretrained(base_model(), dtype=torch.float32)
    save_model: Any = AutoModelForImageTextToText.from_config(model.config, dtype=torch.bfloat16)
    torch.manual_seed(step)
    if lora:
        from peft import LoraConfig, get_peft_model

        settings = LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules="all-linear", exclude_modules=".*visual.*", task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, settings)
        meta = {"r": RANK, "lora_alpha": ALPHA, "task_type": "CAUSAL_LM"}
        (actor / "lora_train_meta.json").write_text(json.dumps(meta))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and ("lora_B" in name or not lora):
                parameter += 0.05 * torch.randn_like(parameter)
    save_model.save_pretrained(place, state_dict=model.state_dict())
    config = json.loads((place / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part |= {"dtype": "bfloat16", "attn_implementation": "causal_sdpa"}
    (place / "config.json").write_text(json.dumps(config))
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
    if finished:
        (folder / f"global_step_{step}" / "data.pt").write_bytes(b"state")
        (folder / checkpoints.TRACKER).write_text(str(step))
    return place
