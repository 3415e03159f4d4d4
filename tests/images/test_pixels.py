"""The release's limits for an image reach verl's prompts: they have the tokens that the rule gives.

`tests.rollout.test_vllm_process` counts them in vLLM.

On the real processor class of Qwen2.5-VL with the demo's tiny model, whose own limits are far lower. If one place did
not get the limits, rollout engine and actor would see different images, and each would be consistent in itself.
"""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from PIL import Image

from recipe.critic_r1.demo.model import IMAGE_PAD
from tests.config.test_configs import composed

# Width, height, and tokens of 28x28 pixels: a small image is enlarged to 262,144 pixels or more, a usual one is only
# rounded to whole tokens, a large one is shrunk to 4,194,304 pixels or fewer.
IMAGES = [((100, 100), 19 * 19), ((640, 480), 23 * 17), ((4000, 3000), 84 * 63)]


def test_verl_builds_prompts_with_them(tiny_model: Path) -> None:
    from transformers import AutoProcessor
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    processor = AutoProcessor.from_pretrained(tiny_model)
    builder = create_continuous_token_builder(
        processor.tokenizer,
        hf_model_type="qwen2_5_vl",
        chat_template_kwargs={},
        mm_processor_kwargs=OmegaConf.to_container(composed("r1").data.mm_processor_kwargs),
        processor=processor,
    )
    token = processor.tokenizer.convert_tokens_to_ids(IMAGE_PAD)
    for size, tokens in IMAGES:
        image = Image.new("RGB", size)
        turn = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "Which?"}]}
        inputs: dict[str, Any] = {}
        ids = builder.build_initial_tokens([turn], images=[image], mm_inputs_out=inputs)
        # The training inputs come out of the same call.
        assert (list(ids).count(token), inputs["image_grid_thw"].prod().item() // 4) == (tokens, tokens), size
        assert 262_144 <= tokens * 28 * 28 <= 4_194_304
