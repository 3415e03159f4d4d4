"""Judging, best-of-N and labelling as functions, on pairs in memory with a served critic.

Each function has two forms. The plain one may be called anywhere; the `async` one does not block the event loop, and
sends no new request after it is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from data_prep.tasks.pairwise import Image, PreferencePair, PreferenceTask
from data_prep.tasks.prompts import MARKER, PromptTemplate, get_template, neutralise
from recipe.critic_r1.judging.address import choose_key
from recipe.critic_r1.judging.generation import Message, Sampling, messages_from_row
from recipe.critic_r1.judging.journal import Journal
from recipe.critic_r1.judging.openai_client import OpenAIGenerator
from recipe.critic_r1.judging.pairwise import Judgement, task_from_row
from recipe.critic_r1.judging.pairwise import judge as judge_tasks
from recipe.critic_r1.labeling.labeler import Decision, Labeller, LabelSettings
from recipe.critic_r1.labeling.questions import LabelPrompt
from recipe.critic_r1.selection.candidates import Candidate, Pool, Problem, Shown, make_pool
from recipe.critic_r1.selection.knock_out import knock_out
from recipe.critic_r1.selection.matches import MatchJudge, critic_prompt
from reward_fns.verdict import Parsing

T = TypeVar("T")


class OpenAIJudge(OpenAIGenerator):
    """A critic on a chat-completions server. Use it as a context manager, or call `close`.

    Args:
        base_url: address up to and including `/v1`.
        model: the server's name of the model.
        api_key: by default $CRITIC_R1_API_KEY, else $OPENAI_API_KEY if the address is https.
        sampling: of a verdict; `n` above 1 asks for that many votes.
        parsing, prefilled: how verdicts are read, see `reward_fns.verdict.parse_verdict`.
        template: the critic's prompt template.
        journal: saves answers, so that a repeated call costs nothing.
        concurrency: maximum number of requests in flight.
        timeout: seconds for one attempt.

    Raises:
        ValueError: the address or a setting is invalid.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str = "",
        sampling: Sampling | None = None,
        parsing: Parsing = "strict",
        prefilled: bool = False,
        template: str = "critic",
        journal: Journal | None = None,
        concurrency: int = 64,
        timeout: float = 600.0,
    ) -> None:
        key = choose_key(api_key, base_url, lambda _: None)
        super().__init__(model, base_url, api_key=key, journal=journal, concurrency=concurrency, timeout=timeout)
        self.sampling = sampling or Sampling()
        self.parsing: Parsing = parsing
        self.prefilled = prefilled
        self.template: PromptTemplate = get_template(template)


@dataclass(frozen=True)
class BestOfN:
    """The result of a tournament.

    winner: the selected candidate; `winner.text` is the response. candidates: all of them.
    judgements: requests to the critic. failed: of these, the failed ones.
    """

    winner: Candidate
    candidates: tuple[Candidate, ...]
    judgements: int
    failed: int


def judge_pairs_sync(pairs: Sequence[PreferencePair], judge: OpenAIJudge) -> list[tuple[Judgement, Judgement]]:
    """Judge pairs, each in both orders.

    Returns:
        Per pair its judgements as listed and swapped; `pred` refers to the order shown, and `error` says why a request
        failed.

    Raises:
        ServerRefusedError: every request would be refused.
    """
    tasks = [
        task_from_row(PreferenceTask(pair, order, index=index, template=judge.template).row())
        for index, pair in enumerate(pairs)
        for order in (0, 1)
    ]
    found = judge_tasks(judge, tasks, judge.sampling, parsing=judge.parsing, prefilled=judge.prefilled)
    return list(zip(found[0::2], found[1::2], strict=True))


async def judge_pairs(pairs: Sequence[PreferencePair], judge: OpenAIJudge) -> list[tuple[Judgement, Judgement]]:
    """`judge_pairs_sync`, awaited."""
    return await _awaited(judge, lambda: judge_pairs_sync(pairs, judge))


def best_of_n(
    question: str,
    images: Sequence[Image],
    responses: Sequence[str],
    judge: OpenAIJudge,
    *,
    shown: Shown = "response",
    seed: int = 0,
) -> BestOfN:
    """Pick one of several responses to a question by a knock-out tournament.

    Args:
        shown: what the critic compares: full responses, boxed or not, or only the boxed answers.

    Raises:
        ValueError: `responses` is empty. ServerRefusedError: every request would be refused.
    """
    if not responses:
        raise ValueError("best_of_n needs at least one response")
    prompt = _prompt(question, images)
    pool = make_pool(Problem("question", prompt, question, None), responses, shown=shown, prefilled=judge.prefilled)
    if shown == "response":
        # Candidates are compared by their text, whether it has a box or not.
        candidates = (Candidate(c.index, c.text, c.text, c.text, c.correct, c.finished) for c in pool.candidates)
        pool = Pool(pool.problem, tuple(candidates))
    referee = MatchJudge(
        judge,
        critic_prompt(judge.template),
        judge.sampling,
        parsing=judge.parsing,
        prefilled=judge.prefilled,
        seed=seed,
    )
    (bracket,) = knock_out([pool], referee, seed=seed)
    return BestOfN(bracket[-1][0], pool.candidates, referee.bill.judgements, referee.bill.failed)


async def best_of_n_async(
    question: str,
    images: Sequence[Image],
    responses: Sequence[str],
    judge: OpenAIJudge,
    *,
    shown: Shown = "response",
    seed: int = 0,
) -> BestOfN:
    """`best_of_n`, awaited."""
    return await _awaited(judge, lambda: best_of_n(question, images, responses, judge, shown=shown, seed=seed))


def label(prompts: Sequence[LabelPrompt], judge: OpenAIJudge, settings: LabelSettings | None = None) -> list[Decision]:
    """Label all pairs of the prompts' responses. `Decision.preference` is the pair of a labelled one.

    Args:
        settings: how pairs are formed and decided; by default with the judge's settings.

    Raises:
        ValueError: a prompt has no responses. ServerRefusedError: every request would be refused.
    """
    chosen = settings or LabelSettings(
        sampling=judge.sampling, verdicts=judge.parsing, prefilled=judge.prefilled, template=judge.template.name
    )
    return Labeller(judge, chosen)(prompts)


async def label_async(
    prompts: Sequence[LabelPrompt], judge: OpenAIJudge, settings: LabelSettings | None = None
) -> list[Decision]:
    """`label`, awaited."""
    return await _awaited(judge, lambda: label(prompts, judge, settings))


def _prompt(question: str, images: Sequence[Image]) -> tuple[Message, ...]:
    text = MARKER * len(images) + neutralise(question)
    return messages_from_row([{"role": "user", "content": text}], [{"bytes": image.data} for image in images])


async def _awaited(judge: OpenAIJudge, work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except asyncio.CancelledError:
        judge.stop()
        raise
