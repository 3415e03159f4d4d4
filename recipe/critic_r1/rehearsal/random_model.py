"""A model with a real architecture and random weights, as a Hugging Face folder made without a download.

The folder holds what a run reads: weights, configuration, tokenizer, image processor and chat template. The tokenizer
is the demo's, filled up to the architecture's vocabulary, because rollout engines mask embedding rows that no token
has and the training engine does not.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from recipe.critic_r1.demo import model as demo

SHARD_BYTES = "4GB"


def _tokenizer(size: int) -> Any:
    tokenizer = demo.build_tokenizer()
    missing = size - len(tokenizer)
    if missing < 0:
        raise ValueError(f"a vocabulary of {size} is too small; the tokenizer has {len(tokenizer)} entries")
    if missing:
        learnt = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        entries = len(learnt["vocab"])
        # Special tokens come after the vocabulary; entries that no merge makes are never met in a text.
        vocab = learnt["vocab"] | {f"<filler_{i}>": entries + i for i in range(missing)}
        tokenizer = demo.build_tokenizer(vocab)
    if len(tokenizer) != size:
        raise RuntimeError(f"the tokenizer has {len(tokenizer)} entries, the architecture {size}")
    return tokenizer


def _processor(config: dict[str, Any], tokenizer: Any) -> Any:
    from transformers import (
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    three = config["model_type"] == "qwen3_vl"
    vision = config["vision_config"]
    patch, merge = vision["patch_size"], vision["spatial_merge_size"]
    sizes = {
        "patch_size": patch,
        "merge_size": merge,
        "temporal_patch_size": vision["temporal_patch_size"],
        # The published processors' limits: 4 tokens at least, 16,384 at most.
        "size": {"shortest_edge": (2 * patch * merge) ** 2, "longest_edge": (128 * patch * merge) ** 2},
    }
    if three:
        sizes |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = Qwen3VLProcessor if three else Qwen2_5_VLProcessor
    return processor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=(Qwen3VLVideoProcessor if three else Qwen2VLVideoProcessor)(**sizes),
        chat_template=demo.CHAT_TEMPLATE,
    )


def make_model(config: dict[str, Any], out: Path, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write a model of this architecture with random weights.

    Args:
        config: as in ``config.json``; ``model_type`` is ``qwen2_5_vl`` or ``qwen3_vl``.
        out: folder to make; replaced when it exists.
        seed: decides every weight.
        dtype: of the weights on disk; published models are in bfloat16.

    Returns:
        ``out``.

    Raises:
        ValueError: for another kind of model, or a vocabulary that is smaller than the demo's.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    if config["model_type"] not in ("qwen2_5_vl", "qwen3_vl"):
        raise ValueError(f"model_type {config['model_type']} cannot be made; qwen2_5_vl and qwen3_vl can")
    text = config.get("text_config") or config
    tokenizer = _tokenizer(text["vocab_size"])
    tokenizer.model_max_length = text["max_position_embeddings"]

    def token(name: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(name))

    ends = {"eos_token_id": token(demo.TURN_END), "pad_token_id": token(demo.END_OF_TEXT)}
    ends["bos_token_id"] = ends["pad_token_id"]
    places = {
        "image_token_id": token(demo.IMAGE_PAD),
        "video_token_id": token(demo.VIDEO_PAD),
        "vision_start_token_id": token(demo.VISION_START),
        "vision_end_token_id": token(demo.VISION_END),
    }
    config = {**config, **places, **ends, "text_config": {**text, **ends}} if "text_config" in config else {
        **config, **places, **ends
    }  # fmt: skip
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    made = AutoConfig.for_model(**config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = AutoModelForImageTextToText.from_config(made, dtype=dtype)
        finally:
            torch.set_default_dtype(before)
    model.generation_config.eos_token_id = [ends["eos_token_id"], ends["pad_token_id"]]
    model.generation_config.pad_token_id = ends["pad_token_id"]
    model.save_pretrained(out, max_shard_size=SHARD_BYTES)
    _processor(config, tokenizer).save_pretrained(out)
    return out
