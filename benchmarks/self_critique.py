r"""A knock-out among N candidates against the obvious way to play it, on a served model.

    python -m benchmarks.self_critique

The obvious way asks one judgement after another and puts the responses first, where they are at hand. Ours keeps all
matches of a round, over all questions, in flight together, and puts the image and the question first, so that a
question's matches share what the server has already read. The two differences are measured one by one and together,
with the same candidates, bracket and rules. Everything else favours the obvious way: it asks nothing twice either, and
of two equal answers one advances unplayed.

The sizes are those of critic data: a photograph of 644 x 476 pixels (391 tokens), a question of a dozen words, 32
different responses of about 80 words. The model is small and not trained, since what it says does not matter here: a
grammar makes it say a verdict in the usual form behind THOUGHT characters of thought. Seconds are of a server on this
machine; tokens are the server's own counters. Each way has a part of the prefix cache of its own, and the images are
shown once before the clock runs.
"""

import json
import random
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import Qwen2_5_VLForConditionalGeneration

from benchmarks.harness import RESULTS, Out, Server, english, photo, served, write
from data_prep.tasks.prompts import get_template
from recipe.critic_r1.demo.model import CHAT_TEMPLATE, model_config
from recipe.critic_r1.judging.generation import GenerationRequest, ImagePart, Message, Sampling, TextPart
from recipe.critic_r1.judging.openai_client import OpenAIGenerator
from recipe.critic_r1.selection.candidates import Candidate, Pool, Problem
from recipe.critic_r1.selection.knock_out import knock_out
from recipe.critic_r1.selection.matches import CriticPrompt, MatchJudge, critic_prompt
from tests.data_prep.made_processors import make_processor

SIZE = (644, 476)
"""Pixels, a multiple of 28 near the usual 640 x 480: 23 x 17 tokens."""

THOUGHT = 300
"""Characters."""

GRAMMAR = rf"<think>[a-z ]{{{THOUGHT}}}</think>\\boxed\{{[12]\}}"

MAX_TOKENS = THOUGHT + 40
"""Longest answer: a token has at least one character."""

IN_FLIGHT = 256

WAYS = {
    "obvious": (False, False),
    "in flight together": (True, False),
    "image and question first": (False, True),
    "ours": (True, True),
}
"""Name -> whether the matches are in flight together, and whether image and question stand first."""


def responses_first(problem: Problem, first: str, second: str) -> tuple[Message, ...]:
    """The training template to the letter, with its parts in another order: responses, question, image."""
    text = get_template("critic").render(problem.question, first, second, n_images=0)
    head, _, rest = text.partition("Question:\n")
    question, _, rest = rest.partition("\n\nResponse 1:\n")
    responses, _, ask = rest.rpartition("\n\n")
    shown = f"{head}Response 1:\n{responses}\n\nQuestion:\n{question}\n\n{ask}\n"
    return (Message("user", (TextPart(shown), *problem.images)),)


def check_words(problem: Problem) -> None:
    """Both prompts must say the same, or one would be cheaper for what it leaves out."""
    both = [build(problem, "one", "two")[0] for build in (critic_prompt(get_template("critic")), responses_first)]
    words = [sorted(" ".join(p.text for p in m.parts if isinstance(p, TextPart)).split()) for m in both]
    if words[0] != words[1] or both[0].images != both[1].images:
        raise AssertionError(f"the prompts differ in more than the order of their parts: {words}")


def make_model(folder: Path) -> Path:
    """The demo's architecture, not trained, with a tokenizer that learned English words and the usual pixel limits."""
    processor = make_processor("qwen2_5_vl", english())
    processor.chat_template = processor.tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(model_config(processor.tokenizer)).to(torch.float32)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_pool(number: int, n: int, distinct: int) -> Pool:
    """A question about an image with n responses, `distinct` of them different."""
    drawn = random.Random(number)
    words = sorted({word for text in english() for word in text.split() if word.isalpha() and word.islower()})

    def text(length: int) -> str:
        return " ".join(drawn.choice(words) for _ in range(length))

    image, question = ImagePart(photo(SIZE, number, quality=85)), f"{text(12)}?"
    problem = Problem(f"{number}", (Message("user", (image, TextPart(question))),), question, None)
    answers = [f"{text(80)}." for _ in range(distinct)]
    shown = [answers[i % distinct] for i in range(n)]
    return Pool(problem, tuple(Candidate(i, s, s, s, False) for i, s in enumerate(shown)))


def play(server: Server, pools: list[Pool], way: str, salt: str) -> dict[str, Any]:
    """Play all tournaments in one way; seconds, tokens and judgements."""
    together, first = WAYS[way]
    prompt: CriticPrompt = critic_prompt(get_template("critic")) if first else responses_first
    body = {"cache_salt": salt, "structured_outputs": {"regex": GRAMMAR}}
    concurrency = IN_FLIGHT if together else 1
    with OpenAIGenerator(server.name, server.url, concurrency=concurrency, extra_body=body) as generator:
        shown = [Message("user", (*pool.problem.images, TextPart("Look."))) for pool in pools]
        generator.generate([GenerationRequest((message,), Sampling(max_tokens=1)) for message in shown])
        judge = MatchJudge(generator, prompt, Sampling(max_tokens=MAX_TOKENS))
        before, start = server.counters(), time.perf_counter()
        for some in [pools] if together else [[pool] for pool in pools]:
            knock_out(some, judge)
        seconds, after = time.perf_counter() - start, server.counters()
    bill = judge.bill
    if bill.failed or bill.unreadable:
        raise RuntimeError(f"{bill.failed} requests failed, {bill.unreadable} verdicts cannot be read")
    return {
        "seconds": round(seconds, 2),
        "seconds_per_judgement": round(seconds / bill.judgements, 4),
        "matches": bill.matches,
        "judgements_in_both_orders": bill.judgements - bill.third_judgements,
        "third_judgements": bill.third_judgements,
        **{f"{name}_tokens": after[name] - before[name] for name in before},
        "prefilled_tokens_per_judgement": round((after["prefilled"] - before["prefilled"]) / bill.judgements, 1),
    }


def main(
    folder: Annotated[Path, typer.Option(help="For the model and the server's log.")] = Path(
        "runs/bench-self-critique"
    ),
    n: Annotated[int, typer.Option(help="Candidates of a question, a power of two.")] = 32,
    questions: Annotated[int, typer.Option(help="Tournaments.")] = 4,
    out: Out = RESULTS / "self_critique.json",
) -> None:
    """Measure, check the number of judgements, write the results."""
    pools = [make_pool(number, n, n) for number in range(questions)]
    halved = [make_pool(number, n, n // 2) for number in range(questions)]
    check_words(pools[0].problem)
    with served(make_model(folder / "model"), "critic", folder / "server.log", "--max-num-seqs", "256") as server:
        play(server, [make_pool(99, 4, 4)], "ours", "warm")
        ways = {}
        for way in WAYS:
            ways[way] = play(server, pools, way, way)
            print(way, ways[way], flush=True)
        duplicates = play(server, halved, "ours", "duplicates")
    expected = 2 * (n - 1) * questions
    if {found["judgements_in_both_orders"] for found in ways.values()} != {expected}:
        raise AssertionError(f"a way has not {expected} judgements in both orders: {ways}")
    if duplicates["judgements_in_both_orders"] > expected:
        raise AssertionError(f"duplicates cost judgements: {duplicates}")
    one, other = ways["obvious"], ways["ours"]
    figures = ("seconds", "seconds_per_judgement", "prefilled_tokens", "prefilled_tokens_per_judgement")
    result = {
        "candidates": n,
        "questions": questions,
        "judgements: (N - 1) x 2 orders x questions": expected,
        "ways": ways,
        "obvious / ours": {figure: round(one[figure] / other[figure], 2) for figure in figures},
        "ours, each response given twice": duplicates,
    }
    print(json.dumps(result["obvious / ours"], indent=1))
    write(out, result)


if __name__ == "__main__":
    typer.run(main)
