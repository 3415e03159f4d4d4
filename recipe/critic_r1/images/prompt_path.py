"""``critic_r1.prompt_path``: how often training computes a prompt, and where that is left to verl.

Imports nothing, for preflight.
"""

from typing import Any

ONCE = "once"
STOCK = "stock"
"""The two ways: once for all rollouts of a prompt, or verl's, anew for each of them."""

PROMPT_PATH = "prompt_path"
"""Non-tensor of a batch in which the trainer names the way."""

MODELS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Model types whose training passes were compared with verl's way."""


def reason_for_stock(text_config: Any, model_type: str, sequence_parallel: int) -> str | None:
    """Why a model is trained verl's way; None when prompts can be shared.

    Args:
        text_config: of the language model.
        model_type: of the whole model.
        sequence_parallel: Ulysses' size.
    """
    if model_type not in MODELS:
        return f"model type {model_type} was not compared with verl's way"
    if sequence_parallel > 1:
        return "ulysses_sequence_parallel_size > 1 cuts sequences"
    if "sliding_attention" in (getattr(text_config, "layer_types", None) or []):
        return "the model has layers of sliding attention"
    if getattr(text_config, "attention_dropout", 0.0):
        return "attention_dropout is not 0"
    return None
