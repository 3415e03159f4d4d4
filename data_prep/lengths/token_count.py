"""Counting tokens with `fastokens`, which is thirty times as fast, if it agrees with `tokenizers`.

Training uses the `tokenizers` library, so its counts are the reference. `fastokens` reads the same tokenizer but does
not support every kind. So the two are compared first, on texts made to expose differences, and `tokenizers` is used if
there is one.
"""

import importlib
import json
import random
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np


class TokenCounter:
    """Counts the tokens of texts.

    Args:
        tokenizer: the tokenizer as the JSON of the `tokenizers` library.
        fast: use `fastokens`, which `why_slow` must allow. `tokenizers` counts batches on which it fails.
    """

    def __init__(self, tokenizer: str, *, fast: bool) -> None:
        self._text = tokenizer
        self._fast = _fast_tokenizer(tokenizer) if fast else None

    def __call__(self, texts: Sequence[str], *, special: bool) -> list[int]:
        """Tokens of each text.

        Args:
            special: count the tokens that the tokenizer adds to a text, such as a begin token.
        """
        if self._fast is not None:
            try:
                _, ends = self._fast.encode_batch_flat(list(texts), add_special_tokens=special)
                counts: list[int] = np.diff(np.frombuffer(ends, np.uint64)).tolist()
                return counts
            except BaseException as error:
                _reason(error)
        return list(map(len, self._slow.encode_batch_fast(texts, add_special_tokens=special)))

    @cached_property
    def _slow(self) -> Any:
        return _tokenizer(self._text)


def why_slow(tokenizer: str) -> str | None:
    """Why `fastokens` cannot be used for this tokenizer; None when it can.

    Args:
        tokenizer: the tokenizer as the JSON of the `tokenizers` library.
    """
    try:
        fast = _fast_tokenizer(tokenizer)
    except BaseException as error:
        return f"it cannot read the tokenizer ({_reason(error)})"
    slow = _tokenizer(tokenizer)
    texts = probe_texts([token["content"] for token in json.loads(tokenizer)["added_tokens"]])
    for special in (False, True):
        wanted = [encoding.ids for encoding in slow.encode_batch_fast(texts, add_special_tokens=special)]
        for text, ids in zip(texts, wanted, strict=True):
            try:
                found = list(fast.encode(text, add_special_tokens=special).ids)
            except BaseException as error:
                return f"it fails on {text[:40]!r} ({_reason(error)})"
            if found != ids:
                return f"it gives other tokens for {text[:40]!r}"
    return None


def _reason(error: BaseException) -> str:
    """The message of an error or a Rust panic, which is not an `Exception`; other exceptions are raised again."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return (str(error).splitlines() or [repr(error)])[0][:200]


def probe_texts(added: Sequence[str], n: int = 3_000, seed: int = 0) -> list[str]:
    """Texts that expose differences between tokenizers: unusual characters, white space, added tokens.

    Args:
        added: the tokenizer's added tokens, such as `<|im_end|>`.
    """
    rng = random.Random(seed)
    every = [chr(i) for i in range(0x20, 0x20000) if unicodedata.category(chr(i)) not in ("Cs", "Cn", "Co")]
    texts = []
    for _ in range(n):
        parts = []
        for _ in range(rng.choice((1, 2, 3, 5, 8, 20, 60))):
            kind = rng.randrange(8)
            if kind < 2:
                parts.append(rng.choice(_HOSTILE))
            elif kind == 2:
                parts.append(rng.choice(every))
            elif kind == 3:
                parts.append(rng.choice(_HOSTILE) * rng.choice((2, 3, 9, 65)))
            elif kind == 4:
                parts.append(chr(rng.randrange(0x20, 0x7F)))
            elif kind == 5 and added and rng.random() < 0.3:
                parts.append(rng.choice(added))
            else:
                parts.append(rng.choice(_WORDS) + rng.choice(("", " ", " ", "\n", ", ")))
        texts.append("".join(parts))
    return texts


_HOSTILE = (
    " \t\n\r\x0b\x0c\x00\x1a\x1c\x1f\x7f\x85\xa0\u2028\u3000\u200b\u200d'’sStTdDmMlLvVrReE019.,;:!?-_()[]{}<>|/\\\"`$%é"
    "ÉßſKİı²½Ⅷ٣你好。한글हिन्दी👍🏽👩\u0301\u0300\u0345\ufffd"
)
_WORDS = (
    "The", "image", "shows", "don't", "WE'LL", "it's", "3.14", "2026", "10,000", "\\boxed{1}", "<think>", "naïve",
    "e\u0301te\u0301", "Straße", "x=y+z;", "snake_case", "CamelCase", "https://example.org/a?b=c", "##", "**bold**",
    "1.", "–", "…",
)  # fmt: skip


def _tokenizer(text: str) -> Any:
    return _unlimited(importlib.import_module("tokenizers").Tokenizer.from_str(text))


def _fast_tokenizer(text: str) -> Any:
    return _unlimited(importlib.import_module("fastokens").Tokenizer.from_json_str(text))


def _unlimited(tokenizer: Any) -> Any:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
