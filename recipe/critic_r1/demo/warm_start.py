"""The short supervised training that replaces the pre-trained base of the paper.

Reinforcement learning needs a base that already answers in form, names what it sees and bases its verdict on what it
named. Some dozens of labelled images teach that to the tiny model. Three things decide whether critic training helps it
afterwards, so they are measured here and not assumed. The base must not be sure of itself, or no second opinion is ever
sampled: with probability `noise` the digit of an example is replaced by a random one. Its text must stay coherent all
the same: pair and verdict follow the digit that is named, also when that digit is wrong. And the verdict, one token of
fourteen, must be learnt in time: it has `box_weight` times the weight of another token. In the longer texts of a
variant it is the first token that depends on the verdict, such as a score, with the same share of the weight. Training
ends by a rule on the training images, never by a look at held-out ones, and a model whose verdict does not follow its
own words is refused.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from data_prep.sources.digits import DigitImage
from recipe.critic_r1.demo import phrases
from recipe.critic_r1.demo.batched_model import MARGIN, RESPONSE_TOKENS, FastForward
from recipe.critic_r1.demo.phrases import PLAIN, Variant
from recipe.critic_r1.labeling.mining import right_against_wrong
from recipe.critic_r1.selection.candidates import final_answer

Progress = Callable[[int, int, str], None]
"""Called as (steps done, steps in all, what to show). The number in all shrinks once the stop rule has spoken."""

_NAMED = re.compile(r"I see a (\d)\.")


class IncoherentModelError(RuntimeError):
    """The warm start ended with a critic whose verdict does not follow the digit that it names."""


@dataclass(frozen=True)
class WarmStartSettings:
    """Sizes of the warm start; the defaults were chosen by a search over seeds."""

    noise: float = 0.4
    """Probability that an example names another digit than its image shows."""

    learning_rate: float = 2e-3

    weight_decay: float = 0.01

    policy_batch: int = 16

    critic_batch: int = 48

    box_weight: float = 8.0
    """Weight of the first token that depends on the verdict, in a critic's response of `RESPONSE_TOKENS`; it grows with
    the length. Every other token weighs 1."""

    unanswerable: float = 0.33
    """Of a variant with ties, the share of the critic's examples in which neither response is right."""

    ramp_steps: int = 20
    """Steps of linear warm-up of the learning rate."""

    check_every: int = 50
    """Steps between two measurements of coherence."""

    stop_at: float = 0.9
    """Coherence on the training images that starts the cool-down."""

    cooldown_steps: int = 150
    """Steps in which the learning rate falls linearly; coherence usually rises another few points."""

    max_steps: int = 900
    """Steps in all, cool-down included."""

    gate: float = 0.95
    """Minimum coherence after the cool-down."""


@dataclass(frozen=True)
class WarmStartResult:
    """What the warm start did."""

    out_dir: Path

    steps: int

    coherence: float
    """`coherence` on the training images, of the kind of prompt with the lowest."""


@contextmanager
def _one_thread() -> Iterator[None]:
    """A fixed order of summation: a seed gives the same weights on any number of cores. No slower at this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load(model_dir: str | Path) -> FastForward:
    """The model of a folder, in float32, with its batched forward."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="sdpa"
    )
    return FastForward(model, AutoProcessor.from_pretrained(model_dir))


def image_patches(forward: FastForward, images: Sequence[DigitImage]) -> Tensor:
    """Patches of the images, (N, 16, 1176), as `FastForward.vision` takes them."""
    return forward.pixels([Image.open(io.BytesIO(image.png)) for image in images])


def other_digit(rng: random.Random, *digits: int) -> int:
    """One of the digits that are not given, uniformly."""
    return rng.choice([candidate for candidate in range(10) if candidate not in digits])


def other_digits(rng: random.Random, digit: int, n: int) -> tuple[int, ...]:
    """`n` different digits other than `digit`, uniformly."""
    found: tuple[int, ...] = ()
    for _ in range(n):
        found += (other_digit(rng, digit, *found),)
    return found


def coherence(
    forward: FastForward, images: Tensor, responses: Sequence[tuple[int, ...]], variant: Variant = PLAIN
) -> float:
    """Share of greedy critic responses that are what the variant's critic writes when it sees the digit they name.

    So the form is complete, and all of it, up to the verdict, follows the named digit.

    Args:
        images: (N, 4, hidden) image tokens.
        responses: the digits of N prompts; each prompt is shown in both directions.
    """
    coherent = 0
    for order in (1, -1):
        shown = [digits[::order] for digits in responses]
        ids = forward.prompt_ids([variant.critic_prompt(digits) for digits in shown])
        longest = len(forward.encode(variant.critic_response(0, shown[0], "1")))
        texts = forward.texts(forward.sample(ids, images, max_new_tokens=longest + MARGIN))
        for text, digits in zip(texts, shown, strict=True):
            named = _NAMED.search(text)
            verdict = variant.verdict(int(named[1]), digits) if named else None
            if named and verdict:
                coherent += text == variant.critic_response(int(named[1]), digits, verdict)
    return coherent / (2 * len(responses))


def _deciding(tokens: Sequence[int], other: Sequence[int]) -> int:
    """The place of the first token that is another one in a response with another verdict."""
    return next(place for place, (a, b) in enumerate(zip(tokens, other, strict=False)) if a != b)


def _example_loss(
    forward: FastForward,
    images: Tensor,
    prompts: Sequence[str],
    responses: Sequence[str],
    alternatives: Sequence[Sequence[str]] = (),
    box_weight: float = 1.0,
) -> Tensor:
    """Mean loss of the responses' tokens.

    Args:
        alternatives: of each response, the same for other verdicts.
        box_weight: of the first token that differs from an alternative.
    """
    targets = forward.response_ids(responses)
    weights = (targets != forward.pad_id).float()
    for row, others in enumerate(alternatives):
        tokens = forward.encode(responses[row])
        for other in others:
            weights[row, _deciding(tokens, forward.encode(other))] = (
                box_weight * (len(tokens) - 1) / (RESPONSE_TOKENS - 1)
            )
    logits = forward.response_logits(forward.prompt_ids(prompts), images, targets)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(weights.shape)
    return (losses * weights).sum() / weights.sum()


def _critic_example(
    variant: Variant, digit: int, n: int, rng: random.Random, unanswerable: float
) -> tuple[str, str, list[str]]:
    """A prompt with `n` responses, what a critic that sees `digit` writes, and the same for other verdicts."""
    place, wrong = rng.randrange(n), other_digits(rng, digit, n - 1)
    at_place = other_digit(rng, digit, *wrong) if variant.ties and rng.random() < unanswerable else digit
    shown = (*wrong[:place], at_place, *wrong[place:])
    verdict = "tie" if at_place != digit else str(place + 1)
    others = {*map(str, range(1, n + 1)), *(["tie"] if variant.ties else [])} - {verdict}
    alternatives = [variant.critic_response(digit, shown, other) for other in sorted(others)]
    return variant.critic_prompt(shown), variant.critic_response(digit, shown, verdict), alternatives


def _batch_loss(
    forward: FastForward,
    pixels: Tensor,
    digits: Sequence[int],
    variant: Variant,
    rng: random.Random,
    settings: WarmStartSettings,
) -> Tensor:
    # One batch for each length of prompt.
    sizes, critics = variant.sizes, settings.critic_batch // len(variant.sizes)
    start, total = settings.policy_batch, settings.policy_batch + critics * len(sizes)
    rows = [rng.randrange(len(digits)) for _ in range(total)]
    named = [rng.randrange(10) if rng.random() < settings.noise else digits[row] for row in rows]
    images = forward.vision(pixels[rows])
    policy = [phrases.policy_response(digit) for digit in named[:start]]
    loss = _example_loss(forward, images[:start], [phrases.policy_prompt()] * start, policy) * start
    for n in sizes:
        end = start + critics
        examples = [_critic_example(variant, digit, n, rng, settings.unanswerable) for digit in named[start:end]]
        prompts, responses, alternatives = zip(*examples, strict=True)
        part = _example_loss(forward, images[start:end], prompts, responses, alternatives, settings.box_weight)
        loss, start = loss + part * critics, end
    return loss / total


def warm_start(
    model_dir: str | Path,
    train_rows: Sequence[DigitImage],
    out_dir: str | Path,
    *,
    seed: int,
    variant: Variant = PLAIN,
    settings: WarmStartSettings | None = None,
    progress: Progress | None = None,
) -> WarmStartResult:
    """Train the model of `model_dir` on a few labelled images and write it, with its processor, to `out_dir`.

    The same seed, model and images give the same weights.

    Args:
        train_rows: the images of the warm-start split.
        seed: decides the order of examples, the noise and the wrong responses.
        variant: whose form the critic learns; `build_model` was given the same.
        progress: called after every step.

    Raises:
        ValueError: no images, or one of another size.
        IncoherentModelError: coherence after the cool-down is below `settings.gate`; nothing is written.
    """
    settings = settings or WarmStartSettings()
    if not train_rows:
        raise ValueError("the warm start got no images: give it at least a few per digit (the demo takes 60)")
    with _one_thread():
        return _warm_start(load(model_dir), train_rows, Path(out_dir), random.Random(seed), variant, settings, progress)


def _warm_start(
    forward: FastForward,
    train_rows: Sequence[DigitImage],
    out_dir: Path,
    rng: random.Random,
    variant: Variant,
    settings: WarmStartSettings,
    progress: Progress | None,
) -> WarmStartResult:
    pixels = image_patches(forward, train_rows)
    digits = [row.label for row in train_rows]
    shown = [[(digit, *other_digits(rng, digit, n - 1)) for digit in digits] for n in variant.sizes]
    if variant.ties:
        shown.append([other_digits(rng, digit, 2) for digit in digits])
    model = forward.model
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def look() -> float:
        with torch.no_grad():
            images = forward.vision(pixels)
            return min(coherence(forward, images, responses, variant) for responses in shown)

    last_start = settings.max_steps - settings.cooldown_steps
    end: int | None = None
    step, seen = 0, 0.0
    while end is None or step < end:
        scale = min(1.0, (step + 1) / settings.ramp_steps)
        if end is not None:
            scale *= max(0.05, (end - step) / settings.cooldown_steps)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * scale
        loss = _batch_loss(forward, pixels, digits, variant, rng, settings)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if end is None and (step % settings.check_every == 0 or step >= last_start):
            seen = look()
            if seen >= settings.stop_at or step >= last_start:
                end = step + settings.cooldown_steps
        if progress:
            progress(step, end or settings.max_steps, f"loss {loss.item():.3f} · coherence {seen:.2f}")
    seen = look()
    if seen < settings.gate:
        raise IncoherentModelError(
            f"after {step} steps on {len(digits)} images only {seen:.1%} of the critic's responses follow the digit "
            f"they name ({settings.gate:.0%} are needed; from such a base the policy does not learn). "
            f"Choose another seed, or raise max_steps (now {settings.max_steps})."
        )
    model.eval()
    model.save_pretrained(out_dir)
    forward.processor.save_pretrained(out_dir)
    return WarmStartResult(out_dir=out_dir, steps=step, coherence=seen)


def hard_negatives(
    model_dir: str | Path,
    images: Sequence[DigitImage],
    *,
    seed: int,
    n: int = 1,
    samples: int = 16,
    temperature: float = 1.0,
) -> dict[int, list[int]]:
    """Wrong digits for each image, sampled from the policy's own wrong answers as `critic-r1 label --truth` finds them.

    Such a pair is hard because the model believed the wrong response itself. Each wrong digit is as likely as the
    policy is to answer it. Where the policy's errors in `samples` tries are too few, random digits follow them.

    Args:
        images: what to sample on.
        seed: decides the samples and the choice among the wrong ones.
        n: wrong digits of an image, each different.

    Returns:
        `DigitImage.index` -> wrong digits, as `digit_pairs` takes them.
    """
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    with _one_thread(), torch.no_grad():
        forward = load(model_dir)
        features = forward.vision(image_patches(forward, images))
        ids = forward.prompt_ids([phrases.policy_prompt()] * len(images))
        responses = forward.texts(
            forward.sample(ids, features, copies=samples, temperature=temperature, generator=generator)
        )
    negatives = {}
    for row, image in enumerate(images):
        drawn = responses[row * samples : (row + 1) * samples]
        mined = right_against_wrong(drawn, str(image.label), shown="answer", seed=seed, name=str(image.index)).pairs
        digits = {pair.wrong for pair in mined if re.fullmatch("[0-9]", pair.wrong)}
        wrong = [int(answer) for text in drawn if (answer := final_answer(text)) in digits and answer is not None]
        chosen: list[int] = []
        for _ in range(n):
            left = [digit for digit in wrong if digit not in chosen]
            chosen.append(rng.choice(left) if left else other_digit(rng, image.label, *chosen))
        negatives[image.index] = chosen
    return negatives
