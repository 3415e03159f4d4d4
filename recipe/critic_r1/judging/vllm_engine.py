"""A vLLM engine inside this process, on a CPU or a GPU, for the demo and tests: no server, no port, no clean-up.

The prompt is rendered by the model's own processor and passed as token ids with one placeholder per image, as in verl's
rollout: a model must be evaluated on the same tokens that it was trained on.

vLLM reads its environment once, at import. `VllmEngine` therefore imports it late, after setting what a CPU needs and
the caller has not set.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.reading.images import open_image
from recipe.critic_r1.judging.generation import Generation, GenerationRequest, ImagePart, Message, Sampling

CPU_ENVIRONMENT = {
    # The engine core stays in this process: nothing to kill, no shared memory left after a crash.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # torch.compile in the sampler takes 25 s of warm-up and saves nothing on a small model.
    "TORCHDYNAMO_DISABLE": "1",
    # The machine is shared, and a small model is not faster with more threads.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}
"""Environment of an engine on a CPU."""


class VllmEngine:
    """A `Generator` with a model folder loaded into this process.

    Args:
        model_dir: Hugging Face folder with weights, tokenizer and processor.
        cpu: set the environment and the sizes for a CPU; False leaves both to vLLM and `engine_kwargs`.
        max_model_len: longest prompt plus answer, in tokens.
        max_num_seqs: answers that are decoded together.
        kv_cache_bytes: size of the KV cache (CPU only).
        max_images: most images in one prompt.
        seed: of the engine; a request's own seed overrides it.
        **engine_kwargs: passed to `vllm.LLM`; they override everything above.
    """

    def __init__(
        self,
        model_dir: str | Path,
        *,
        cpu: bool = True,
        max_model_len: int = 256,
        max_num_seqs: int = 128,
        kv_cache_bytes: int = 256 << 20,
        max_images: int = 1,
        seed: int = 0,
        **engine_kwargs: Any,
    ) -> None:
        self.model_dir = Path(model_dir)
        if not (self.model_dir / "config.json").is_file():
            raise FileNotFoundError(
                f"{self.model_dir} has no config.json: give a Hugging Face model folder (export the checkpoint first)"
            )
        settings: dict[str, Any] = {
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "limit_mm_per_prompt": {"image": max_images, "video": 0},
            "seed": seed,
        }
        if cpu:
            for name, value in CPU_ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            settings |= {
                "distributed_executor_backend": "uni",
                "dtype": "float32",
                "enforce_eager": True,
                "max_num_batched_tokens": 2048,
                # vLLM cannot rewind a CPU generator, so a seeded request whose prompt is split over steps fails.
                "enable_chunked_prefill": False,
                "kv_cache_memory_bytes": kv_cache_bytes,
                "gpu_memory_utilization": 0.05,
                "skip_mm_profiling": True,
                "disable_log_stats": True,
            }
        from transformers import AutoProcessor
        from vllm import LLM

        self._processor = AutoProcessor.from_pretrained(str(self.model_dir))
        self._llm = LLM(str(self.model_dir), **{**settings, **engine_kwargs})
        self._token_ids: dict[tuple[Any, ...], list[int]] = {}
        self._images: dict[str, Image.Image] = {}

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Answer all requests in one scheduling pass. See `Generator.generate`.

        A prompt that is too long for the model gets a `Generation.error`; the others are still answered.
        """
        results: dict[int, Generation] = {}
        prompts, params, places = [], [], []
        limit = self._llm.model_config.max_model_len
        for place, request in enumerate(requests):
            ids = self.token_ids(request.messages)
            if len(ids) >= limit:
                results[place] = Generation((), error=f"prompt of {len(ids)} tokens, the model takes {limit}")
                continue
            prompt: dict[str, Any] = {"prompt_token_ids": ids}
            if request.images:
                prompt["multi_modal_data"] = {"image": [self._image(image) for image in request.images]}
            prompts.append(prompt)
            params.append(_sampling_params(request.sampling))
            places.append(place)
        outputs = self._llm.generate(prompts, params, use_tqdm=False) if prompts else []
        for place, output in zip(places, outputs, strict=True):
            results[place] = Generation(
                texts=tuple(answer.text for answer in output.outputs),
                finish_reasons=tuple(str(answer.finish_reason) for answer in output.outputs),
                prompt_tokens=len(output.prompt_token_ids or ()),
                completion_tokens=sum(len(answer.token_ids) for answer in output.outputs),
            )
        return [results[place] for place in range(len(requests))]

    def token_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a prompt with the generation prefix, one placeholder per image (vLLM expands it)."""
        # Images do not change the ids, so prompts with the same text share an entry.
        shape = tuple(
            (m.role, tuple("<image>" if isinstance(p, ImagePart) else (p.text,) for p in m.parts)) for m in messages
        )
        ids = self._token_ids.get(shape)
        if ids is None:
            chat = [{"role": m.role, "content": [_chat_part(part) for part in m.parts]} for m in messages]
            text = self._processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            ids = self._token_ids[shape] = list(self._processor.tokenizer(text)["input_ids"])
        return list(ids)

    def _image(self, image: ImagePart) -> Image.Image:
        opened = self._images.get(image.blake3)
        if opened is None:
            opened = self._images[image.blake3] = open_image(image.data)
        return opened


def _chat_part(part: Any) -> dict[str, str]:
    return {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}


def _sampling_params(sampling: Sampling) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        n=sampling.n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
    )
