"""Matches between two candidates, judged in both orders, in batches over all questions.

Rules of a match:
  1. The critic sees the pair in both orders. Each readable verdict is a vote; a tie is a vote for neither.
  2. The candidate with more votes wins.
  3. Equal votes (a flip, two ties, nothing readable) lead to a third judgement: a hash decides the order, and the
     verdict is sampled, since a greedy critic would repeat itself.
  4. If that is unreadable or a tie too, the match is a draw. The tournament decides what a draw means.

A tournament may give a candidate a lead in votes: it is added in rule 2, and rule 3 applies when the sum is zero.

A result does not depend on which candidate is named first or when the match is played: the same two texts for the same
question are judged once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from data_prep.tasks.prompts import PromptTemplate
from recipe.critic_r1.judging.generation import GenerationRequest, Generator, Message, Sampling, parts_of
from recipe.critic_r1.selection.candidates import Candidate, Problem
from reward_fns.verdict import Parsing, parse_verdict

CriticPrompt = Callable[[Problem, str, str], tuple[Message, ...]]
"""(problem, first text shown, second text shown) -> the critic's prompt."""


def critic_prompt(template: PromptTemplate) -> CriticPrompt:
    """Prompts from a training template: images, question and pair in one user turn."""

    def build(problem: Problem, first: str, second: str) -> tuple[Message, ...]:
        text = template.render(problem.question, first, second, n_images=len(problem.images))
        return (Message("user", parts_of(text, iter(problem.images))),)

    return build


@dataclass(frozen=True, slots=True)
class Match:
    """Two candidates of one problem."""

    problem: Problem
    a: Candidate
    b: Candidate


@dataclass(frozen=True, slots=True)
class MatchOutcome:
    """How a match ended.

    result: +1 when `a` wins, -1 when `b` wins, 0 for a draw.
    requests: keys of the judgements that decided it, for `MatchJudge.cost`.
    """

    result: int
    requests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of judgements, including reused ones.

    judgements: their number, including failed requests.
    prompt_tokens, completion_tokens: of those that succeeded; None when the server did not report an answer's tokens.
    """

    judgements: int
    prompt_tokens: int | None
    completion_tokens: int | None


class _KnownOutcome(NamedTuple):
    """A judgement that was requested before."""

    choice: str | None
    answered: bool
    prompt_tokens: int
    completion_tokens: int


MOST_VOTES = 2
"""Most votes that a candidate can get from the two regular judgements of a match."""


@dataclass(slots=True)
class Bill:
    """Totals of the matches so far; a reused judgement is not counted again.

    matches: played, including those decided by reused judgements.
    judgements: requests sent to the critic.
    third_judgements: of these, the ones that had to break equal votes.
    unreadable, cut_off: judgements without a readable verdict, and those ended by the token limit.
    failed, unanswerable: requests without an answer that the next run repeats, and those that would fail again.
    draws: matches that the third judgement did not decide.
    prompt_tokens, completion_tokens: of all judgements.
    """

    matches: int = 0
    judgements: int = 0
    third_judgements: int = 0
    unreadable: int = 0
    cut_off: int = 0
    failed: int = 0
    unanswerable: int = 0
    draws: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class MatchJudge:
    """Plays matches with a critic.

    generator: the critic.
    prompt: builds its prompts.
    sampling: for the two regular judgements; `n` must be 1.
    tie_temperature: for the third judgement.
    parsing, prefilled: for reading verdicts, see `reward_fns.verdict.parse_verdict`.
    seed: for the order of third judgements and their sampling.
    """

    generator: Generator
    prompt: CriticPrompt
    sampling: Sampling = field(default_factory=Sampling)
    tie_temperature: float = 1.0
    parsing: Parsing = "strict"
    prefilled: bool = False
    seed: int = 0
    bill: Bill = field(default_factory=Bill)
    _known: dict[str, _KnownOutcome] = field(default_factory=dict, repr=False)

    def play(self, matches: Sequence[Match]) -> list[int]:
        """Results of all matches, each +1 when `a` wins, -1 when `b` wins, 0 for a draw."""
        return [outcome.result for outcome in self.decide(matches)]

    def decide(self, matches: Sequence[Match], leads: Sequence[float] | None = None) -> list[MatchOutcome]:
        """Play all matches: the regular judgements in one batch, then the third judgements in another.

        Args:
            leads: per match the votes by which `a` is ahead before the judgements; None for no leads.
        """
        both = [self._both_orders(match) for match in matches]
        choices = self._ask([request for pair in both for request in pair])
        scores = [
            lead + _vote(choices[forward.key], swapped=False) + _vote(choices[backward.key], swapped=True)
            for (forward, backward), lead in zip(both, leads or [0.0] * len(both), strict=True)
        ]
        keys = [(forward.key, backward.key) for forward, backward in both]
        open_matches = [i for i, score in enumerate(scores) if score == 0]
        thirds = [self._third(matches[i]) for i in open_matches]
        before = self.bill.judgements
        choices = self._ask([request for request, _ in thirds])
        self.bill.third_judgements += self.bill.judgements - before
        outcomes = [MatchOutcome((score > 0) - (score < 0), pair) for score, pair in zip(scores, keys, strict=True)]
        for i, (request, swapped) in zip(open_matches, thirds, strict=True):
            outcomes[i] = MatchOutcome(_vote(choices[request.key], swapped=swapped), (*keys[i], request.key))
        self.bill.matches += len(matches)
        self.bill.draws += sum(outcome.result == 0 for outcome in outcomes)
        return outcomes

    def cost(self, requests: Iterable[str]) -> Cost:
        """The cost of judgements in this judge's outcomes, each counted once."""
        found = [self._known[key] for key in set(requests)]
        answered = [known for known in found if known.answered]
        # No prompt has zero tokens: the server did not report them.
        if not all(known.prompt_tokens for known in answered):
            return Cost(len(found), None, None)
        return Cost(len(found), sum(k.prompt_tokens for k in answered), sum(k.completion_tokens for k in answered))

    def _both_orders(self, match: Match) -> tuple[GenerationRequest, GenerationRequest]:
        return (
            GenerationRequest(self.prompt(match.problem, match.a.shown, match.b.shown), self.sampling),
            GenerationRequest(self.prompt(match.problem, match.b.shown, match.a.shown), self.sampling),
        )

    def _third(self, match: Match) -> tuple[GenerationRequest, bool]:
        """The request that breaks equal votes, and whether it shows `b` first."""
        low, high = sorted((match.a.shown, match.b.shown))
        names = (match.problem.problem_id, low, high)
        sampling = replace(self.sampling, temperature=self.tie_temperature, seed=self.seed).for_request(*names)
        coin = hashlib.sha256("\0".join(("order", str(self.seed), *names)).encode()).digest()[0] % 2
        first, second = (high, low) if coin else (low, high)
        return GenerationRequest(self.prompt(match.problem, first, second), sampling), first != match.a.shown

    def _ask(self, requests: Sequence[GenerationRequest]) -> dict[str, str | None]:
        """Verdict per request key; requests with a known verdict are not sent again."""
        new = {request.key: request for request in requests if request.key not in self._known}
        for key, generation in zip(new, self.generator.generate(list(new.values())) if new else [], strict=True):
            choice = None
            if generation.error is not None:
                self.bill.failed += generation.failure == "failed"
                self.bill.unanswerable += generation.failure != "failed"
            else:
                (finished,) = generation.finished
                verdict = parse_verdict(
                    generation.text, parsing=self.parsing, prefilled=self.prefilled, finished=finished
                )
                choice = verdict.choice
                self.bill.unreadable += choice is None
                self.bill.cut_off += not finished
            self._known[key] = _KnownOutcome(
                choice, generation.error is None, generation.prompt_tokens, generation.completion_tokens
            )
            self.bill.judgements += 1
            self.bill.prompt_tokens += generation.prompt_tokens
            self.bill.completion_tokens += generation.completion_tokens
        return {request.key: self._known[request.key].choice for request in requests}


def _vote(choice: str | None, *, swapped: bool) -> int:
    """+1 for candidate `a`, -1 for `b`, 0 for neither."""
    vote = {"1": 1, "2": -1}.get(choice or "", 0)
    return -vote if swapped else vote
