"""Prints how many tokens vLLM gives images of the sizes on standard input, by the limits of a configuration.

Run as a process of its own, because vLLM on this platform wants the plug-in before it is imported.
"""

import json
import sys
from typing import Any

import verl  # noqa: F401  (loads the plug-in)
from PIL import Image


def main() -> None:
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY

    asked = json.load(sys.stdin)
    model = ModelConfig(model=asked["model"], dtype="float32", max_model_len=2048, **asked["engine_kwargs"])
    processor = MULTIMODAL_REGISTRY.create_processor(model)
    token = asked["image_token_id"]
    found = []
    for size in asked["sizes"]:
        items = processor.info.parse_mm_data({"image": [Image.new("RGB", size)]})
        # The limits of the engine, then those that verl sends with a prompt.
        limits: list[dict[str, Any]] = [{}, asked["mm_processor_kwargs"]]
        for with_prompt in limits:
            out = processor([token], items, hf_processor_mm_kwargs=with_prompt)
            found.append(list(out["prompt_token_ids"]).count(token))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
