"""Real processors of the Qwen2-VL, Qwen2.5-VL and Mllama families with a small tokenizer trained on the spot."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
                "<|video_pad|>"]  # fmt: skip
LLAMA_SPECIAL = ["<|begin_of_text|>", "<|eot_id|>", "<|header|>", "<|image|>", "<|python_tag|>", "<|pad|>"]

_PARTS = (
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}IMAGE{% elif p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    + _PARTS.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|header|>{{ m['role'] }}\n\n"
    + _PARTS.replace("IMAGE", "<|image|>")
    + "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|header|>assistant\n\n{% endif %}"
)


def _tokenizer(special: list[str], bos: str | None, corpus: list[str] | None = None, size: int = 600) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    corpus = corpus or ["Which of the two responses is better, given the image and the question?"]
    tokenizer.train_from_iterator(corpus, trainer)
    if bos is not None:
        number = tokenizer.token_to_id(bos)
        tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, number)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=special[0],
        pad_token=special[-1],
        clean_up_tokenization_spaces=False,
    )


def make_processor(family: str, corpus: list[str] | None = None, **image_options: Any) -> Any:
    """A processor of `qwen2_vl`, `qwen2_5_vl` or `mllama`; its tokenizer learns from `corpus` when there is one."""
    import transformers as t

    if family == "mllama":
        images = t.MllamaImageProcessor(**image_options)
        return t.MllamaProcessor(images, _tokenizer(LLAMA_SPECIAL, LLAMA_SPECIAL[0]), chat_template=LLAMA_TEMPLATE)
    cls = {"qwen2_vl": t.Qwen2VLProcessor, "qwen2_5_vl": t.Qwen2_5_VLProcessor}[family]
    images = t.Qwen2VLImageProcessor(**image_options)
    return cls(
        images,
        _tokenizer(QWEN_SPECIAL, None, corpus, 8_000 if corpus else 600),
        t.Qwen2VLVideoProcessor(),
        chat_template=QWEN_TEMPLATE,
    )
