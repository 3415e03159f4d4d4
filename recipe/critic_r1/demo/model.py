"""A Qwen2.5-VL that a CPU can train in minutes, built from nothing.

No network is needed and nothing is downloaded: the architecture is the real one (vision tower with windows, merger,
multi-axis rotary positions, gated feed-forward), only the sizes are small, so that Transformers, vLLM and verl take the
folder for any other Qwen2.5-VL checkpoint. Three sizes are not free. A head of the language model has 32 channels,
because vLLM's CPU attention has no smaller kernel. An image of 56x56 pixels is the smallest that the image processor
leaves alone (4 tokens). The embedding has exactly as many rows as the tokenizer has entries: rollout engines mask rows
beyond it and the training engine does not, so padding would make the two disagree on every probability.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from data_prep.tasks.prompts import MARKER
from recipe.critic_r1.demo import phrases
from recipe.critic_r1.demo.phrases import PLAIN, Variant
from recipe.critic_r1.demo.worlds import DIGITS, World

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
VISION_PAD = "<|vision_pad|>"
IMAGE_PAD = "<|image_pad|>"
VIDEO_PAD = "<|video_pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, VISION_PAD, IMAGE_PAD, VIDEO_PAD)

PATCH = 14
MERGE = 2
IMAGE_SIDE = 56
"""Pixels. Two merged patches a side, 4 image tokens."""

MAX_SIDE = 112
"""Pixels. A larger image is scaled down to this."""

MAX_POSITIONS = 2048

HIDDEN = 64

INITIAL_SPREAD = HIDDEN**-0.5
"""Standard deviation of the first weights. The usual 0.02 suits wide models; here it leaves attention almost flat, and
the warm start takes more than twice the steps until a verdict follows the digit that was named."""

# No default system prompt: it would double the length of the demo's prompts. Everything else is Qwen2.5-VL's form.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or part['type'] == 'image_url' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _corpus(world: World, variant: Variant) -> Iterator[str]:
    for seen, question, shown in world.examples():
        yield f"user\n{phrases.policy_prompt(question)}\nassistant\n"
        yield f"user\n{variant.critic_prompt(question, shown)}\nassistant\n"
        yield phrases.policy_response(seen, shown[0])
        yield variant.critic_response(seen, shown, "1")
        if variant.ties:
            yield variant.critic_response(seen, shown, "tie")


def build_tokenizer(
    vocab: dict[str, int] | None = None, *, world: World = DIGITS, variant: Variant = PLAIN
) -> Qwen2Tokenizer:
    """A byte-level BPE in Qwen2's form, learnt from the demo's own texts; any other text falls back to bytes.

    Args:
        vocab: the learnt vocabulary with more entries; null: as learnt.
        world, variant: whose texts are learnt.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    # The corpus runs out of merges long before this size.
    trainer = trainers.BpeTrainer(
        vocab_size=512, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator((text.replace(MARKER, "") for text in _corpus(world, variant)), trainer)
    return Qwen2Tokenizer(
        vocab=vocab or bpe.get_vocab(),
        merges=_merges(bpe),
        unk_token=END_OF_TEXT,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _merges(bpe: Tokenizer) -> list[tuple[str, str]]:
    """The merges in the order they were learnt; only the saved form of a tokenizer tells them."""
    return [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]


def extra_tokens(world: World, variant: Variant) -> tuple[int, int]:
    """By how many tokens the longest prompts and responses exceed those of the plain demo, which the limits are for."""

    def lengths(world: World, variant: Variant) -> tuple[int, int]:
        tokenizer = build_tokenizer(world=world, variant=variant)
        prompts, responses = set(), set()
        for seen, question, shown in world.examples():
            several = (shown * variant.responses)[: variant.responses]
            prompts.add(variant.critic_prompt(question, several).replace(MARKER, ""))
            responses.add(variant.critic_response(seen, several, "1"))
        prompt, response = (
            max(map(len, tokenizer(sorted(texts), add_special_tokens=False)["input_ids"]))
            for texts in (prompts, responses)
        )
        return prompt, response

    (prompt, response), (usual_prompt, usual_response) = lengths(world, variant), lengths(DIGITS, PLAIN)
    return max(0, prompt - usual_prompt), max(0, response - usual_response)


def build_processor(world: World = DIGITS, variant: Variant = PLAIN) -> Qwen2_5_VLProcessor:
    """Tokenizer, image processor and chat template, as one Hugging Face processor."""
    sizes = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": IMAGE_SIDE**2, "longest_edge": MAX_SIDE**2},
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        tokenizer=build_tokenizer(world=world, variant=variant),
        video_processor=Qwen2VLVideoProcessor(**sizes),
        chat_template=CHAT_TEMPLATE,
    )


def model_config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    """The tiny architecture for this tokenizer."""

    def token(text: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(text))

    ends = {"eos_token_id": token(TURN_END), "pad_token_id": token(END_OF_TEXT), "bos_token_id": token(END_OF_TEXT)}
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": MAX_POSITIONS,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "use_sliding_window": False,
            "initializer_range": INITIAL_SPREAD,
            **ends,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "window_size": IMAGE_SIDE,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
            "initializer_range": INITIAL_SPREAD,
        },
        image_token_id=token(IMAGE_PAD),
        video_token_id=token(VIDEO_PAD),
        vision_start_token_id=token(VISION_START),
        vision_end_token_id=token(VISION_END),
        tie_word_embeddings=False,
        initializer_range=INITIAL_SPREAD,
        **ends,
    )


def build_model(out_dir: str | Path, seed: int, world: World = DIGITS, variant: Variant = PLAIN) -> Path:
    """Write a randomly initialised model with tokenizer, processor and chat template as a Hugging Face folder.

    Args:
        out_dir: created when it does not exist; files of an earlier model are overwritten.
        seed: decides every weight. The tokenizer does not depend on it.
        world, variant: the tokenizer learns their texts.

    Returns:
        The folder. The same seed gives the same bytes of `model.safetensors`.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    processor = build_processor(world, variant)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(model_config(processor.tokenizer)).to(torch.float32)
    text_config = model.config.text_config
    model.generation_config.eos_token_id = [text_config.eos_token_id, text_config.pad_token_id]
    model.generation_config.pad_token_id = text_config.pad_token_id
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out
