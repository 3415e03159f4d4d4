"""Real processors of the Qwen2-VL and Qwen2.5-VL families with a small tokenizer trained on the spot."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
                "<|video_pad|>"]  # fmt: skip

_PARTS = (
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}IMAGE{% elif p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    + _PARTS.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _tokenizer(corpus: list[str] | None, size: int) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=QWEN_SPECIAL,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    corpus = corpus or ["Which of the two responses is better, given the image and the question?"]
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=QWEN_SPECIAL[0],
        pad_token=QWEN_SPECIAL[-1],
        clean_up_tokenization_spaces=False,
    )


def make_processor(family: str, corpus: list[str] | None = None, **image_options: Any) -> Any:
    """A processor of `qwen2_vl` or `qwen2_5_vl`; its tokenizer learns from `corpus` when there is one."""
    import transformers as t

    cls = {"qwen2_vl": t.Qwen2VLProcessor, "qwen2_5_vl": t.Qwen2_5_VLProcessor}[family]
    images = t.Qwen2VLImageProcessor(**image_options)
    return cls(
        images,
        _tokenizer(corpus, 8_000 if corpus else 600),
        t.Qwen2VLVideoProcessor(),
        chat_template=QWEN_TEMPLATE,
    )
