"""`fastokens` must count exactly what `tokenizers` counts, and stand back where it does not."""

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from data_prep.lengths.token_count import TokenCounter, probe_texts, why_slow
from tests.data_prep.made_processors import QWEN_SPECIAL

LLAMA_SPECIAL = ["<|begin_of_text|>", "<|eot_id|>", "<|header|>", "<|image|>", "<|python_tag|>", "<|pad|>"]

LLAMA_3 = PRETOKENIZE_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
"""How Llama 3 splits a text: as Qwen2 does, but for numbers of up to three digits."""

KINDS = ("byte level", "qwen2", "llama 3")


@lru_cache
def tokenizer(kind: str) -> Tokenizer:
    """A tokenizer built like that of a model, which learned from our probes."""
    special = LLAMA_SPECIAL if kind == "llama 3" else QWEN_SPECIAL
    found = Tokenizer(models.BPE(ignore_merges=kind == "llama 3"))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind != "byte level":
        pattern = Regex(LLAMA_3 if kind == "llama 3" else PRETOKENIZE_REGEX)
        found.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(pattern, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    if kind == "qwen2":
        found.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=3_000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    found.train_from_iterator(probe_texts([], seed=1), trainer)
    found.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)])
    if kind == "llama 3":
        begin = (LLAMA_SPECIAL[0], found.token_to_id(LLAMA_SPECIAL[0]))
        found.post_processor = processors.TemplateProcessing(f"{begin[0]} $A", special_tokens=[begin])
    return found


@lru_cache
def counters(kind: str) -> tuple[TokenCounter, TokenCounter]:
    text = tokenizer(kind).to_str()
    return TokenCounter(text, fast=True), TokenCounter(text, fast=False)


@pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=pytest.mark.bench)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("special", [False, True])
def test_fast_and_slow_count_alike(kind: str, special: bool, count: int) -> None:
    assert why_slow(tokenizer(kind).to_str()) is None
    fast, slow = counters(kind)
    texts = ["", *probe_texts([*QWEN_SPECIAL, *LLAMA_SPECIAL, "<tool_call>"], n=count, seed=2)]
    texts += [mark * 50_000 for mark in ("a", " ", "\n", "1", "好", "👍🏽", "e\u0301", "\t \n")]
    counts = fast(texts, special=special)
    assert counts == slow(texts, special=special)
    assert (counts[0] == 0) == (not special or kind != "llama 3")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8))
def test_fast_and_slow_count_alike_on_any_text(kind: str, texts: list[str]) -> None:
    fast, slow = counters(kind)
    assert fast(texts, special=True) == slow(texts, special=True)


class Odd:
    """A counter of tokens that is wrong in one way."""

    def __init__(self, text: str, fault: str) -> None:
        self._tokenizer, self._fault = Tokenizer.from_str(text), fault

    def no_truncation(self) -> None: ...

    def no_padding(self) -> None: ...

    def encode(self, text: str, add_special_tokens: bool) -> Any:
        if self._fault == "raises" and "\n" in text:
            raise ValueError("match limit exceeded\nand more")
        if self._fault == "differs":
            text = text.replace("\x85", " ")
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)


@pytest.mark.parametrize(
    ("fault", "said"), [("differs", "other tokens"), ("raises", "match limit exceeded"), ("unread", "cannot read")]
)
def test_one_difference_is_enough_to_stay_with_the_slow_one(
    fault: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(text: str) -> Odd:
        if fault == "unread":
            raise ValueError("unknown model type")
        return Odd(text, fault)

    monkeypatch.setitem(sys.modules, "fastokens", SimpleNamespace(Tokenizer=SimpleNamespace(from_json_str=read)))
    reason = why_slow(tokenizer("qwen2").to_str())
    assert reason is not None
    assert said in reason
    assert "\n" not in reason


class PanicException(BaseException):
    """As a library written in Rust raises it."""


@pytest.mark.parametrize(
    "error", [ValueError("match limit"), PanicException("index out of bounds"), KeyboardInterrupt()]
)
def test_what_the_fast_one_fails_on_the_slow_one_counts(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    fast, slow = (TokenCounter(tokenizer("llama 3").to_str(), fast=fast) for fast in (True, False))
    monkeypatch.setattr(fast, "_fast", SimpleNamespace(encode_batch_flat=fail))
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            fast(["a text"], special=True)
    else:
        assert fast(["a text", ""], special=True) == slow(["a text", ""], special=True)


def test_a_tokenizer_that_it_does_not_know_is_counted_slowly() -> None:
    found = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    text = found.to_str()
    assert json.loads(text)["model"]["type"] == "WordLevel"
    reason = why_slow(text)
    counter = TokenCounter(text, fast=reason is None)
    assert counter(["a b c", ""], special=True) == [3, 0]


@pytest.mark.parametrize("threads", [1, 2])
def test_fastokens_has_threads_of_its_own_only_when_told(threads: int, tmp_path: Path) -> None:
    tokenizer("byte level").save(str(tmp_path / "tokenizer.json"))
    script = """
import os, sys
from data_prep.lengths.token_count import TokenCounter

count = TokenCounter(open(sys.argv[1]).read(), fast=True)
count([f"text number {i} of a batch" for i in range(200)], special=True)
names = [open(f"/proc/self/task/{thread}/comm").read() for thread in os.listdir("/proc/self/task")]
print(sum(name.startswith("fastokens") for name in names))
"""
    command = [sys.executable, "-c", script, str(tmp_path / "tokenizer.json")]
    environment = os.environ | {"FASTOKENS_BPE_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == min(threads, len(os.sched_getaffinity(0))) - 1  # on one core it starts none
