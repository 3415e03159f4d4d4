"""The warm start and the batched forward it stands on."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch
from transformers import AutoProcessor

from data_prep.sources.digits import QUESTION, load_digit_images
from data_prep.tasks.row import Image
from recipe.critic_r1.demo import VariantName, phrases
from recipe.critic_r1.demo.batched_model import FastForward
from recipe.critic_r1.demo.model import build_tokenizer
from recipe.critic_r1.demo.phrases import PLAIN, VARIANTS, Variant
from recipe.critic_r1.demo.warm_start import (
    IncoherentModelError,
    Shown,
    WarmStartSettings,
    _deciding,
    coherence,
    hard_negatives,
    image_patches,
    load,
    warm_start,
)
from recipe.critic_r1.demo.worlds import DIGITS, Item

SHORT = WarmStartSettings(
    max_steps=6, cooldown_steps=2, check_every=2, ramp_steps=2, policy_batch=4, critic_batch=8, gate=0.0
)


@pytest.fixture(scope="module")
def rows() -> list[Item]:
    return [  # one of each digit
        Item(image.index, image.image, str(image.label), QUESTION, str(image.label))
        for image in load_digit_images()[:10]
    ]


@pytest.fixture(scope="module")
def forward(tiny_model: Path) -> FastForward:
    return load(tiny_model)


def test_batched_forward_equals_the_stock_forward(forward: FastForward, rows: list[Item]) -> None:
    prompts = [PLAIN.critic_prompt(QUESTION, shown) for shown in ("17", "09", "44")]
    answers = [said(str(d), str(1 + d % 2)) for d in range(6)]
    pixels, ids, responses = (
        image_patches(forward, rows[:3]),
        forward.prompt_ids(prompts),
        forward.response_ids(answers),
    )
    with torch.no_grad():
        logits = forward.response_logits(ids, forward.vision(pixels), responses, torch.tensor([0, 0, 1, 1, 2, 2]))
        full = torch.cat([ids.repeat_interleave(2, 0), responses], 1)
        stock = forward.model(
            input_ids=full,
            attention_mask=torch.ones_like(full),
            pixel_values=pixels.repeat_interleave(2, 0).flatten(0, 1),
            image_grid_thw=torch.tensor([[1, 4, 4]] * 6),
            mm_token_type_ids=(full == forward.image_id).int(),
        ).logits[:, ids.shape[1] - 1 : -1]
        vision = forward.model.model.visual(pixels.flatten(0, 1), grid_thw=torch.tensor([[1, 4, 4]] * 3)).pooler_output
    torch.testing.assert_close(forward.vision(pixels).flatten(0, 1), vision, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, stock, atol=1e-5, rtol=0)
    # The images count: the same text over another image gives other logits.
    assert (stock[0] - stock[2]).abs().max() > 1e-4


def test_greedy_sample_is_the_argmax_of_the_response_logits(forward: FastForward, rows: list[Item]) -> None:
    ids = forward.prompt_ids([phrases.policy_prompt(QUESTION)] * 4)
    with torch.no_grad():
        images = forward.vision(image_patches(forward, rows[:4]))
        tokens = forward.sample(ids, images, max_new_tokens=5)
        logits = forward.response_logits(ids, images, tokens)
    assert torch.equal(logits.argmax(-1), tokens)


def test_samples_follow_the_generator_and_hold_no_image_token(forward: FastForward, rows: list[Item]) -> None:
    ids = forward.prompt_ids([phrases.policy_prompt(QUESTION)] * 2)
    with torch.no_grad():
        images = forward.vision(image_patches(forward, rows[:2]))

    def sampled(seed: int, copies: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return forward.sample(ids, images, copies=copies, temperature=1.0, generator=generator)

    first = sampled(1, 8)
    assert torch.equal(first, sampled(1, 8))
    assert not torch.equal(first, sampled(2, 8))
    # 256 random responses would hold about ten of them.
    assert not (sampled(1, 128) == forward.image_id).any()


def test_samples_have_the_distribution_of_the_logits(forward: FastForward, rows: list[Item]) -> None:
    ids = forward.prompt_ids([phrases.policy_prompt(QUESTION)])
    count = 4000
    with torch.no_grad():
        images = forward.vision(image_patches(forward, rows[:1]))
        generator = torch.Generator().manual_seed(0)
        # A low temperature, so that few continuations share most of the probability.
        drawn = forward.sample(ids, images, copies=count, temperature=0.2, generator=generator, max_new_tokens=2)
        seen, counts = torch.unique(drawn, dim=0, return_counts=True)
        logits = forward.response_logits(ids, images, seen, torch.zeros(len(seen), dtype=torch.long))
        logits[..., forward.image_id] = -torch.inf
        chances = (logits / 0.2).log_softmax(-1).gather(-1, seen[..., None]).sum(1).exp()[:, 0]
    likely = chances > 0.01
    assert likely.sum() > 3
    error = (chances * (1 - chances) / count).sqrt()
    assert ((counts / count - chances).abs() < 4 * error)[likely].all()


def test_prompts_equal_what_the_processor_makes(forward: FastForward, tiny_model: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_model)
    prompt = PLAIN.critic_prompt(QUESTION, ("7", "3"))
    content = [{"type": "image"}, {"type": "text", "text": prompt.removeprefix("<image>")}]
    chat = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    expected = processor(text=[chat], images=[PIL.Image.new("RGB", (56, 56))], return_tensors="pt")["input_ids"]
    assert torch.equal(forward.prompt_ids([prompt]), expected)


def test_text_ends_at_the_end_token(forward: FastForward) -> None:
    ids = forward.response_ids([phrases.policy_response("3", "3"), "7"])
    assert forward.texts(ids) == [phrases.policy_response("3", "3"), "7"]


def said(digit: str, choice: str) -> str:
    return PLAIN.critic_response(digit, (), choice)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda shown: said(shown[0], "1"), 1.0),
        (lambda shown: said(shown[1], "2"), 1.0),
        (lambda shown: said(shown[0], "2"), 0.0),  # names one response, boxes the other
        (lambda shown: said(shown[0], "3"), 0.0),  # no such response
        (lambda shown: said("8", "1"), 0.0),  # names a digit that is in no response
        (lambda shown: said("8", "tie"), 0.0),  # this variant has no ties
        (lambda shown: said(shown[0], "1") + " I see.", 0.0),  # not in form
        (lambda shown: "\\boxed{1}", 0.0),  # names nothing
        (lambda shown: f"<think>I see a {shown[0]}.</think>", 0.0),  # no verdict
    ],
)
def test_coherence_compares_the_verdict_with_the_named_digit(
    forward: FastForward, monkeypatch: pytest.MonkeyPatch, write: Callable[[tuple[str, ...]], str], expected: float
) -> None:
    assert scripted_coherence(forward, monkeypatch, PLAIN, ["12", "34"], write) == expected


def scripted_coherence(
    forward: FastForward,
    monkeypatch: pytest.MonkeyPatch,
    variant: Variant,
    responses: list[str],
    write: Callable[[tuple[str, ...]], str],
) -> float:
    """Coherence of a critic that writes what is given for each prompt, in both directions.

    Args:
        responses: the digits of each prompt.
    """
    directions = iter([responses, [digits[::-1] for digits in responses]])

    def respond(prompts: list[str], images: torch.Tensor, max_new_tokens: int) -> list[str]:
        shown = [tuple(digits) for digits in next(directions)]
        assert prompts == [variant.critic_prompt(QUESTION, digits) for digits in shown]
        return [write(digits) for digits in shown]

    monkeypatch.setattr(forward, "respond", respond)
    shown = [Shown(QUESTION, tuple(digits)) for digits in responses]
    return coherence(forward, torch.zeros(len(responses), 4, 64), shown, DIGITS, variant)


CHAINED, UNSURE, AMONG = VARIANTS["scores"], VARIANTS["counterfactual"], VARIANTS["nway"]


@pytest.mark.parametrize(
    ("variant", "responses", "write", "expected"),
    [
        ("counterfactual", ["12"], lambda shown: UNSURE.critic_response("8", shown, "tie"), 1.0),
        ("counterfactual", ["12"], lambda shown: UNSURE.critic_response("8", shown, "1"), 0.0),
        ("counterfactual", ["12"], lambda shown: UNSURE.critic_response(shown[1], shown, "tie"), 0.0),
        ("nway", ["1234"], lambda shown: AMONG.critic_response(shown[2], shown, "3"), 1.0),
        ("nway", ["1234"], lambda shown: AMONG.critic_response(shown[2], shown, "2"), 0.0),
        ("scores", ["12"], lambda shown: CHAINED.critic_response(shown[1], shown, "2"), 1.0),
        # A chain must be complete, and its scores must say what its verdict says.
        ("scores", ["12"], lambda shown: said(shown[1], "2"), 0.0),
        ("scores", ["12"], lambda shown: CHAINED.critic_response(shown[1], shown, "1").replace("{1}", "{2}"), 0.0),
    ],
)
def test_coherence_of_variants(
    forward: FastForward,
    monkeypatch: pytest.MonkeyPatch,
    variant: VariantName,
    responses: list[str],
    write: Callable[[tuple[str, ...]], str],
    expected: float,
) -> None:
    assert scripted_coherence(forward, monkeypatch, VARIANTS[variant], responses, write) == expected


@pytest.mark.parametrize(
    ("variant", "shown", "verdict", "other", "deciding"),
    [
        (None, "35", "1", "2", "{|1"),
        ("nway", "5713", "4", "2", "{|4"),
        ("counterfactual", "35", "1", "tie", ".| right"),
        ("counterfactual", "53", "2", "tie", " and| right"),
        ("counterfactual", "57", "tie", "2", " and| wrong"),
        ("scores", "35", "2", "1", "1: |1"),
        ("rubric", "53", "2", "1", "I see a 3.| wrong"),
        ("grounded", "35", "1", "2", "Verification:| right"),
    ],
)
def test_the_first_token_that_depends_on_the_verdict(
    variant: VariantName | None, shown: str, verdict: str, other: str, deciding: str
) -> None:
    form = VARIANTS[variant]
    tokenizer = build_tokenizer(variant=form)
    tokens, others = (tokenizer.encode(form.critic_response("3", tuple(shown), said)) for said in (verdict, other))
    place = _deciding(tokens, others)
    before, token = deciding.split("|")
    assert tokenizer.decode(tokens[:place]).endswith(before)
    assert tokenizer.decode(tokens[place]) == token


def test_same_seed_same_weights_and_the_folder_loads(tiny_model: Path, rows: list[Item], tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    result = warm_start(
        tiny_model, rows, tmp_path / "a", seed=3, settings=SHORT, progress=lambda *call: calls.append(call)
    )
    warm_start(tiny_model, rows, tmp_path / "b", seed=3, settings=SHORT)
    warm_start(tiny_model, rows, tmp_path / "c", seed=4, settings=SHORT)
    first, second, third = (load(tmp_path / name).model.state_dict() for name in "abc")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)
    assert result.steps == 6
    assert [call[:2] for call in calls] == [(step, 6) for step in range(1, 7)]


def test_loss_falls(tiny_model: Path, rows: list[Item], tmp_path: Path) -> None:
    losses: list[float] = []
    settings = replace(SHORT, max_steps=30, ramp_steps=5)
    warm_start(
        tiny_model, rows, tmp_path, seed=0, settings=settings,
        progress=lambda step, total, text: losses.append(float(text.split()[1])),
    )  # fmt: skip
    assert losses[-1] < 0.6 * losses[0]


def test_stop_rule_starts_the_cool_down_early(tiny_model: Path, rows: list[Item], tmp_path: Path) -> None:
    result = warm_start(tiny_model, rows, tmp_path, seed=0, settings=replace(SHORT, max_steps=50, stop_at=0.0))
    assert result.steps == SHORT.check_every + SHORT.cooldown_steps


def test_incoherent_model_is_refused_and_not_written(tiny_model: Path, rows: list[Item], tmp_path: Path) -> None:
    with pytest.raises(IncoherentModelError, match=r"0\.0% .*95% are needed.*another seed, or raise max_steps"):
        warm_start(tiny_model, rows, tmp_path / "out", seed=0, settings=replace(SHORT, gate=0.95))
    assert not (tmp_path / "out").exists()


def test_bad_images_are_named(tiny_model: Path, rows: list[Item], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images"):
        warm_start(tiny_model, [], tmp_path, seed=0)
    stream = io.BytesIO()
    PIL.Image.new("RGB", (84, 84)).save(stream, "PNG")
    large = replace(rows[1], image=Image(stream.getvalue()))
    with pytest.raises(ValueError, match="image 1 is 84x84 pixels"):
        warm_start(tiny_model, [rows[0], large], tmp_path, seed=0, settings=SHORT)


def test_hard_negatives_come_from_the_policys_own_errors(
    tiny_model: Path, rows: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fixed(self: FastForward, ids: torch.Tensor, images: torch.Tensor, *, copies: int, **_: object) -> torch.Tensor:
        written = {0: ["\\boxed{6}", "\\boxed{0}"], 1: ["\\boxed{1}", "\\boxed{1}"], 2: ["nothing", "\\boxed{12}"]}
        return self.response_ids([text for row in range(len(ids)) for text in written[row]])

    monkeypatch.setattr(FastForward, "sample", fixed)
    found = [hard_negatives(tiny_model, rows[:3], seed=seed, samples=2) for seed in range(8)]
    # Image 0 was misread as 6 once; images 1 and 2 gave no usable error, so theirs are random but never right.
    assert {negatives[0][0] for negatives in found} == {"6"}
    assert len({negatives[1][0] for negatives in found}) > 1
    for negatives in [*found, hard_negatives(tiny_model, rows[:3], seed=0, n=3, samples=2)]:
        assert negatives[0][0] == "6"
        for item, wrong in zip(rows, negatives, strict=False):
            assert len({item.answer, *wrong}) == 1 + len(wrong)
