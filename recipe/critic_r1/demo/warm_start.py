"""The short supervised training that replaces the pre-trained base of the paper.

Reinforcement learning needs a base that already answers in form, names what it sees and bases its verdict on what it
named. Some dozens of labelled images teach that to the tiny model. Three things decide whether critic training helps it
afterwards, so they are measured here and not assumed. The base must not be sure of itself, or no second opinion is ever
sampled: with probability `noise` the digit of an example is replaced by a random one. Its text must stay coherent all
the same: pair and verdict follow the digit that is named, also when that digit is wrong. And the verdict, one token of
fourteen, must be learnt in time: it has `box_weight` times the weight of another token. Training ends by a rule on the
training images, never by a look at held-out ones, and a model whose verdict does not follow its own words is refused.
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
from recipe.critic_r1.demo.batched_model import FastForward

Progress = Callable[[int, int, str], None]
"""Called as (steps done, steps in all, what to show). The number in all shrinks once the stop rule has spoken."""

_NAMED = re.compile(r"I see a (\d)\.")
_BOXED = re.compile(r"\\boxed\{(\d+)\}")


class IncoherentModelError(RuntimeError):
    """The warm start ended with a critic whose verdict does not follow the digit it names."""


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
    """Weight of the critic's verdict token in the loss; every other token weighs 1."""

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
    """Share of critic responses, on training images and in both orders, whose verdict follows the named digit."""


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


def other_digit(rng: random.Random, digit: int) -> int:
    """One of the nine other digits, uniformly."""
    return rng.choice([candidate for candidate in range(10) if candidate != digit])


def coherence(forward: FastForward, images: Tensor, pairs: Sequence[tuple[int, int]]) -> float:
    """Share of greedy critic responses whose boxed verdict points at the response that equals the digit they name.

    Args:
        images: (N, 4, hidden) image tokens.
        pairs: N pairs of response digits; each is shown in both orders.
    """
    consistent = 0
    for order in (1, -1):
        shown = [pair[::order] for pair in pairs]
        ids = forward.prompt_ids([phrases.critic_prompt(*pair) for pair in shown])
        for text, pair in zip(forward.texts(forward.sample(ids, images)), shown, strict=True):
            named, boxed = _NAMED.search(text), _BOXED.search(text)
            if named and boxed and boxed[1] in ("1", "2"):
                consistent += int(named[1]) == pair[int(boxed[1]) - 1]
    return consistent / (2 * len(pairs))


def _example_loss(
    forward: FastForward, images: Tensor, prompts: list[str], responses: list[str], box_weight: float
) -> Tensor:
    targets = forward.response_ids(responses)
    weights = (targets != forward.pad_id).float()
    if box_weight != 1:
        # `\boxed{N}` ends the text: the digit stands before the brace and the end token.
        end = (targets == forward.end_id).int().argmax(1)
        weights[torch.arange(len(targets)), end - 2] = box_weight
    logits = forward.response_logits(forward.prompt_ids(prompts), images, targets)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(weights.shape)
    return (losses * weights).sum() / weights.sum()


def _batch_loss(
    forward: FastForward, pixels: Tensor, digits: Sequence[int], rng: random.Random, settings: WarmStartSettings
) -> Tensor:
    size = settings.policy_batch + settings.critic_batch
    rows = [rng.randrange(len(digits)) for _ in range(size)]
    named = [rng.randrange(10) if rng.random() < settings.noise else digits[row] for row in rows]
    critic_prompts: list[str] = []
    critic_responses: list[str] = []
    for digit in named[settings.policy_batch :]:
        choice, wrong = rng.choice((1, 2)), other_digit(rng, digit)
        critic_prompts.append(phrases.critic_prompt(*((digit, wrong) if choice == 1 else (wrong, digit))))
        critic_responses.append(phrases.critic_response(digit, choice))
    policy = named[: settings.policy_batch]
    images = forward.vision(pixels[rows])
    policy_loss = _example_loss(
        forward,
        images[: len(policy)],
        [phrases.policy_prompt()] * len(policy),
        [phrases.policy_response(digit) for digit in policy],
        1.0,
    )
    critic_loss = _example_loss(forward, images[len(policy) :], critic_prompts, critic_responses, settings.box_weight)
    return (policy_loss * settings.policy_batch + critic_loss * settings.critic_batch) / size


def warm_start(
    model_dir: str | Path,
    train_rows: Sequence[DigitImage],
    out_dir: str | Path,
    *,
    seed: int,
    settings: WarmStartSettings | None = None,
    progress: Progress | None = None,
) -> WarmStartResult:
    """Train the model of `model_dir` on a few labelled images and write it, with its processor, to `out_dir`.

    The same seed, model and images give the same weights.

    Args:
        train_rows: the images of the warm-start split.
        seed: decides the order of examples, the noise and the wrong responses.
        progress: called after every step.

    Raises:
        ValueError: no images, or one of another size.
        IncoherentModelError: coherence after the cool-down is below `settings.gate`; nothing is written.
    """
    settings = settings or WarmStartSettings()
    if not train_rows:
        raise ValueError("the warm start got no images: give it at least a few per digit (the demo takes 60)")
    with _one_thread():
        return _warm_start(load(model_dir), train_rows, Path(out_dir), random.Random(seed), settings, progress)


def _warm_start(
    forward: FastForward,
    train_rows: Sequence[DigitImage],
    out_dir: Path,
    rng: random.Random,
    settings: WarmStartSettings,
    progress: Progress | None,
) -> WarmStartResult:
    pixels = image_patches(forward, train_rows)
    digits = [row.label for row in train_rows]
    pairs = [(digit, other_digit(rng, digit)) for digit in digits]
    model = forward.model
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def look() -> float:
        with torch.no_grad():
            return coherence(forward, forward.vision(pixels), pairs)

    last_start = settings.max_steps - settings.cooldown_steps
    end: int | None = None
    step, seen = 0, 0.0
    while end is None or step < end:
        scale = min(1.0, (step + 1) / settings.ramp_steps)
        if end is not None:
            scale *= max(0.05, (end - step) / settings.cooldown_steps)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * scale
        loss = _batch_loss(forward, pixels, digits, rng, settings)
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
            f"after {step} steps on {len(digits)} images only {seen:.1%} of the critic's verdicts follow the digit "
            f"it names ({settings.gate:.0%} are needed; from such a base the policy does not learn). "
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
    samples: int = 16,
    temperature: float = 1.0,
) -> dict[int, int]:
    """One wrong digit per image, sampled from the policy's own wrong answers.

    Such a pair is hard because the model believed the wrong response itself. An image that the policy never misread in
    `samples` tries gets a random wrong digit.

    Args:
        images: what to sample on.
        seed: decides the samples and the choice among the wrong ones.

    Returns:
        `DigitImage.index` -> wrong digit, as `digit_pairs` takes it.
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
        answers = [_BOXED.search(text) for text in responses[row * samples : (row + 1) * samples]]
        digits = [int(answer[1]) for answer in answers if answer and len(answer[1]) == 1]
        wrong = [digit for digit in digits if digit != image.label]
        negatives[image.index] = rng.choice(wrong) if wrong else other_digit(rng, image.label)
    return negatives
