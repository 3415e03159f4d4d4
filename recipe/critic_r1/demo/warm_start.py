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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from recipe.critic_r1.demo import phrases
from recipe.critic_r1.demo.batched_model import MARGIN, RESPONSE_TOKENS, FastForward
from recipe.critic_r1.demo.phrases import PLAIN, Variant
from recipe.critic_r1.demo.worlds import DIGITS, Item, World
from recipe.critic_r1.labeling.mining import right_against_wrong
from recipe.critic_r1.selection.candidates import final_answer

Progress = Callable[[int, int, str], None]
"""Called as (steps done, steps in all, what to show). The number in all shrinks once the stop rule has spoken."""


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


def image_patches(forward: FastForward, items: Sequence[Item]) -> Tensor:
    """Patches of the images, (N, 16, 1176), as `FastForward.vision` takes them."""
    return forward.pixels([Image.open(io.BytesIO(item.image.data or b"")) for item in items])


@dataclass(frozen=True)
class Example:
    """A prompt, its response, and the same response for other verdicts."""

    prompt: str
    response: str
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shown:
    """A critic's prompt: a question and responses."""

    question: str
    responses: tuple[str, ...]


def coherence(
    forward: FastForward, images: Tensor, shown: Sequence[Shown], world: World = DIGITS, variant: Variant = PLAIN
) -> float:
    """Share of greedy critic responses that are what the variant's critic writes when it sees what they name.

    So the form is complete, and all of it, up to the verdict, follows from what is named.

    Args:
        images: (N, 4, hidden) image tokens.
        shown: N prompts; each is shown with its responses in both directions.
    """
    coherent = 0
    for order in (1, -1):
        turned = [Shown(each.question, each.responses[::order]) for each in shown]
        prompts = [variant.critic_prompt(each.question, each.responses) for each in turned]
        longest = max(
            len(forward.encode(variant.critic_response(world.seen[0], each.responses, "1"))) for each in turned
        )
        texts = forward.respond(prompts, images, max_new_tokens=longest + MARGIN)
        coherent += sum(map(partial(_is_coherent, world, variant), turned, texts))
    return coherent / (2 * len(shown))


def _is_coherent(world: World, variant: Variant, shown: Shown, text: str) -> bool:
    seen = phrases.named(text)
    if seen is None or seen not in world.seen:
        return False
    verdict = variant.verdict(world.answer(shown.question, seen), shown.responses)
    return verdict is not None and text == variant.critic_response(seen, shown.responses, verdict)


def _deciding(tokens: Sequence[int], other: Sequence[int]) -> int:
    """The place of the first token that is another one in a response with another verdict."""
    return next(place for place, (a, b) in enumerate(zip(tokens, other, strict=False)) if a != b)


def _example_loss(forward: FastForward, images: Tensor, examples: Sequence[Example], box_weight: float) -> Tensor:
    """Mean loss of the tokens of responses to prompts of one length."""
    targets = forward.response_ids([example.response for example in examples])
    weights = (targets != forward.pad_id).float()
    for row, example in enumerate(examples):
        tokens = forward.encode(example.response)
        for other in example.alternatives:
            place = _deciding(tokens, forward.encode(other))
            weights[row, place] = box_weight * (len(tokens) - 1) / (RESPONSE_TOKENS - 1)
    logits = forward.response_logits(forward.prompt_ids([example.prompt for example in examples]), images, targets)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(weights.shape)
    return (losses * weights).sum() / weights.sum()


def _critic_example(
    world: World, variant: Variant, seen: str, n: int, rng: random.Random, unanswerable: float
) -> Example:
    """What a critic that sees this writes about `n` responses."""
    question = world.ask(rng, seen, judged=True)
    right, place = world.answer(question, seen), rng.randrange(n)
    wrong = world.wrong(rng, question, right, n - 1)
    if variant.ties and rng.random() < unanswerable:
        shown, verdict = tuple(world.wrong(rng, question, right, n)), "tie"
    else:
        shown, verdict = (*wrong[:place], right, *wrong[place:]), str(place + 1)
    others = {*map(str, range(1, n + 1)), *(["tie"] if variant.ties else [])} - {verdict}
    return Example(
        variant.critic_prompt(question, shown),
        variant.critic_response(seen, shown, verdict),
        tuple(variant.critic_response(seen, shown, other) for other in sorted(others)),
    )


def _policy_example(world: World, seen: str, rng: random.Random) -> Example:
    question = world.ask(rng, seen, judged=False)
    return Example(phrases.policy_prompt(question), phrases.policy_response(seen, world.answer(question, seen)))


def _batch_loss(
    forward: FastForward,
    pixels: Tensor,
    shown: Sequence[str],
    world: World,
    variant: Variant,
    rng: random.Random,
    settings: WarmStartSettings,
) -> Tensor:
    """Mean loss of a batch of policy and critic examples.

    Args:
        shown: what each image shows.
    """
    sizes, policies = variant.sizes, settings.policy_batch
    total = policies + settings.critic_batch
    rows = [rng.randrange(len(shown)) for _ in range(total)]
    seen = [world.seen[rng.randrange(len(world.seen))] if rng.random() < settings.noise else shown[row] for row in rows]
    examples = [_policy_example(world, each, rng) for each in seen[:policies]]
    examples += [
        _critic_example(world, variant, each, sizes[place % len(sizes)], rng, settings.unanswerable)
        for place, each in enumerate(seen[policies:])
    ]
    images = forward.vision(pixels[rows])
    loss = torch.zeros(())
    for places in forward.by_length([example.prompt for example in examples]):
        part = [examples[place] for place in places]
        loss = loss + _example_loss(forward, images[places], part, settings.box_weight) * len(places)
    return loss / total


def warm_start(
    model_dir: str | Path,
    items: Sequence[Item],
    out_dir: str | Path,
    *,
    seed: int,
    world: World = DIGITS,
    variant: Variant = PLAIN,
    settings: WarmStartSettings | None = None,
    progress: Progress | None = None,
) -> WarmStartResult:
    """Train the model of `model_dir` on a few labelled images and write it, with its processor, to `out_dir`.

    The same seed, model and images give the same weights.

    Args:
        items: those of the warm-start split.
        seed: decides the order of examples, the noise and the wrong responses.
        world, variant: what the model learns to see and to write; `build_model` was given the same.
        progress: called after every step.

    Raises:
        ValueError: no images, or one of another size.
        IncoherentModelError: coherence after the cool-down is below `settings.gate`; nothing is written.
    """
    settings = settings or WarmStartSettings()
    if not items:
        raise ValueError("the warm start got no images: give it at least a few per digit (the demo takes 60)")
    with _one_thread():
        return _warm_start(
            load(model_dir), items, Path(out_dir), random.Random(seed), world, variant, settings, progress
        )


def _warm_start(
    forward: FastForward,
    items: Sequence[Item],
    out_dir: Path,
    rng: random.Random,
    world: World,
    variant: Variant,
    settings: WarmStartSettings,
    progress: Progress | None,
) -> WarmStartResult:
    pixels = image_patches(forward, items)

    def asked(n: int, *, tie: bool = False) -> Iterator[Shown]:
        for item in items:
            question = world.ask(rng, item.seen, judged=True)
            right = world.answer(question, item.seen)
            wrong = world.wrong(rng, question, right, n - 1 + tie)
            yield Shown(question, tuple(wrong if tie else (right, *wrong)))

    prompts = [[*asked(n)] for n in variant.sizes]
    if variant.ties:
        prompts.append([*asked(2, tie=True)])
    model = forward.model
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def look() -> float:
        with torch.no_grad():
            images = forward.vision(pixels)
            return min(coherence(forward, images, shown, world, variant) for shown in prompts)

    last_start = settings.max_steps - settings.cooldown_steps
    end: int | None = None
    step, seen = 0, 0.0
    while end is None or step < end:
        scale = min(1.0, (step + 1) / settings.ramp_steps)
        if end is not None:
            scale *= max(0.05, (end - step) / settings.cooldown_steps)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * scale
        loss = _batch_loss(forward, pixels, [item.seen for item in items], world, variant, rng, settings)
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
            f"after {step} steps on {len(items)} images only {seen:.1%} of the critic's responses follow what "
            f"they name ({settings.gate:.0%} are needed; from such a base the policy does not learn). "
            f"Choose another seed, or raise max_steps (now {settings.max_steps})."
        )
    model.eval()
    model.save_pretrained(out_dir)
    forward.processor.save_pretrained(out_dir)
    return WarmStartResult(out_dir=out_dir, steps=step, coherence=seen)


def hard_negatives(
    model_dir: str | Path,
    items: Sequence[Item],
    *,
    seed: int,
    world: World = DIGITS,
    n: int = 1,
    samples: int = 16,
    temperature: float = 1.0,
) -> list[list[str]]:
    """Wrong answers for each item, sampled from the policy's own wrong answers as `critic-r1 label --truth` finds them.

    Such a pair is hard because the model believed the wrong response itself. Each wrong answer is as likely as the
    policy is to give it. Where the policy's errors in `samples` tries are too few, random wrong answers follow them.

    Args:
        seed: decides the samples and the choice among the wrong ones.
        n: wrong answers to an item, each different.
    """
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    with _one_thread(), torch.no_grad():
        forward = load(model_dir)
        images = forward.vision(image_patches(forward, items))
        prompts = [phrases.policy_prompt(item.question) for item in items]
        responses = forward.respond(prompts, images, copies=samples, temperature=temperature, generator=generator)
    negatives = []
    for place, item in enumerate(items):
        drawn = responses[place * samples : (place + 1) * samples]
        mined = right_against_wrong(drawn, item.answer, shown="answer", seed=seed, name=str(item.id)).pairs
        plausible = {pair.wrong for pair in mined}.intersection(world.answers(item.question))
        wrong = [answer for text in drawn if (answer := final_answer(text)) in plausible and answer is not None]
        negatives.append(world.wrong(rng, item.question, item.answer, n, wrong))
    return negatives
