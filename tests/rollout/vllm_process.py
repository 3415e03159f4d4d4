"""Prints what can be seen only where vLLM is imported: the server's class, adapters, image tokens.

    python -m tests.rollout.vllm_process < QUESTION

A process of its own: on a CPU, vLLM wants the plug-in before it is imported. The question and the answer are JSON.
"""

import json
import sys
from typing import Any

import verl  # noqa: F401  (loads the plug-in)
from PIL import Image


def server_is_verls() -> bool:
    """Whether our rollout server extends the one that this verl starts."""
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    from recipe.critic_r1 import compat
    from recipe.critic_r1.compat.pinned_sources import REMEDY, SERVER_FUNCTIONS
    from recipe.critic_r1.training.trainer import _group_replica

    compat.check_sources(SERVER_FUNCTIONS, REMEDY)
    return issubclass(_group_replica(), RolloutReplicaRegistry.get("vllm"))


def adapters_are_accepted() -> bool:
    """verl asks vLLM which ranks it serves."""
    from tests.config.test_configs import accept, composed

    accept(composed("r1", "tuning=lora"))
    return True


def image_tokens(asked: dict[str, Any]) -> list[int]:
    """Tokens of an image of each size: by the limits of the engine, then by those that verl sends with a prompt."""
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY

    model = ModelConfig(model=asked["model"], dtype="float32", max_model_len=2048, **asked["engine_kwargs"])
    processor = MULTIMODAL_REGISTRY.create_processor(model)
    token, found = asked["image_token_id"], []
    for size in asked["sizes"]:
        items = processor.info.parse_mm_data({"image": [Image.new("RGB", size)]})
        limits: list[dict[str, Any]] = [{}, asked["mm_processor_kwargs"]]
        for with_prompt in limits:
            out = processor([token], items, hf_processor_mm_kwargs=with_prompt)
            found.append(list(out["prompt_token_ids"]).count(token))
    return found


if __name__ == "__main__":
    question = json.load(sys.stdin)
    answer = {"server": server_is_verls(), "adapters": adapters_are_accepted(), "tokens": image_tokens(question)}
    print(json.dumps(answer))
