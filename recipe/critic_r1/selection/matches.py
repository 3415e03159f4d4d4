"""Matches between two candidates, judged in both orders, a whole round over all questions at a time.

Rules of a match:
  1. The critic sees the pair in both orders. Each readable verdict is a vote; a verdict for a tie is a vote for nobody.
  2. More votes win.
  3. Equal votes (a flip, two ties, nothing readable) go to one more judgement: the order is drawn by a hash, and the
     answer is sampled, since a greedy critic would only repeat itself.
  4. If that one is unreadable or a tie too, the match is a draw. What a draw means is the tournament's business.

A tournament may give a candidate a lead in votes; it is added in rule 2, and rule 3 holds when the sum is nought.

A match does not depend on which candidate is named first, nor on when it is played: the same two texts under the same
question get the same result, and are paid for once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from data_prep.tasks.prompts import MARKER, PromptTemplate
from recipe.critic_r1.judging.generation import (
    GenerationRequest,
    Generator,
    ImagePart,
    Message,
    Sampling,
    TextPart,
)
from recipe.critic_r1.selection.candidates import Candidate, Problem
from reward_fns.verdict import Parsing, parse_verdict

CriticPrompt = Callable[[Problem, str, str], tuple[Message, ...]]
"""Builds the critic's prompt from a problem and the two texts, in the order in which they are shown."""


def critic_prompt(template: PromptTemplate) -> CriticPrompt:
    """The prompt of a training template: images, then the question, then the pair, in one user turn."""

    def build(problem: Problem, first: str, second: str) -> tuple[Message, ...]:
        images = problem.images
        text = template.render(problem.question, first, second, n_images=len(images))
        pieces = text.split(MARKER)
        parts: list[TextPart | ImagePart] = [TextPart(pieces[0])] if pieces[0] else []
        for image, piece in zip(images, pieces[1:], strict=True):
            parts.append(image)
            if piece:
                parts.append(TextPart(piece))
        return (Message("user", tuple(parts)),)

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
    requests: names of the judgements that decided it, for `MatchJudge.cost`.
    """

    result: int
    requests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What some judgements cost, whether they were paid now or were known.

    judgements: how many; a request without an answer counts too.
    prompt_tokens, completion_tokens: of those that were answered; None when the server did not count an answer's.
    """

    judgements: int
    prompt_tokens: int | None
    completion_tokens: int | None


class _KnownOutcome(NamedTuple):
    """A judgement that was asked for."""

    choice: str | None
    answered: bool
    prompt_tokens: int
    completion_tokens: int


MOST_VOTES = 2
"""Votes that the regular judgements of a match can give to one candidate."""


@dataclass(slots=True)
class Bill:
    """What the matches have cost so far; judgements that were already known cost nothing.

    matches: played, including those whose result was known.
    judgements: requests sent to the critic.
    third_judgements: those of them that had to break equal votes.
    unreadable, cut_off: judgements without a readable verdict, and judgements ended by the token limit.
    failed, unanswerable: requests without an answer that the next run asks again, and that it would be no use to.
    draws: matches that even the third judgement left open.
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
    prompt: how it is asked.
    sampling: of the two regular judgements; `n` must be 1.
    tie_temperature: of the third judgement.
    parsing, prefilled: how verdicts are read, see `reward_fns.verdict.parse_verdict`.
    seed: draws the order of third judgements and seeds their sampling.
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
        """Play all matches: all regular judgements go out in one batch, then all third judgements in another.

        Args:
            leads: per match the votes by which `a` is ahead before anyone is asked; none when None.
        """
        both = [self._both_orders(match) for match in matches]
        choices = self._ask([request for pair in both for request in pair])
        scores = [
            lead + _vote(choices[forward.key], swapped=False) + _vote(choices[backward.key], swapped=True)
            for (forward, backward), lead in zip(both, leads or [0.0] * len(both), strict=True)
        ]
        names = [(forward.key, backward.key) for forward, backward in both]
        open_matches = [i for i, score in enumerate(scores) if score == 0]
        thirds = [self._third(matches[i]) for i in open_matches]
        before = self.bill.judgements
        choices = self._ask([request for request, _ in thirds])
        self.bill.third_judgements += self.bill.judgements - before
        outcomes = [MatchOutcome((score > 0) - (score < 0), pair) for score, pair in zip(scores, names, strict=True)]
        for i, (request, swapped) in zip(open_matches, thirds, strict=True):
            outcomes[i] = MatchOutcome(_vote(choices[request.key], swapped=swapped), (*names[i], request.key))
        self.bill.matches += len(matches)
        self.bill.draws += sum(outcome.result == 0 for outcome in outcomes)
        return outcomes

    def cost(self, requests: Iterable[str]) -> Cost:
        """What the judgements of these names cost, each counted once. They must be in outcomes of this judge."""
        found = [self._known[name] for name in set(requests)]
        answered = [known for known in found if known.answered]
        # A prompt of no tokens does not exist: such an answer came without a count.
        if not all(known.prompt_tokens for known in answered):
            return Cost(len(found), None, None)
        return Cost(len(found), sum(k.prompt_tokens for k in answered), sum(k.completion_tokens for k in answered))

    def _both_orders(self, match: Match) -> tuple[GenerationRequest, GenerationRequest]:
        return (
            GenerationRequest(self.prompt(match.problem, match.a.shown, match.b.shown), self.sampling),
            GenerationRequest(self.prompt(match.problem, match.b.shown, match.a.shown), self.sampling),
        )

    def _third(self, match: Match) -> tuple[GenerationRequest, bool]:
        """The request that breaks equal votes, and whether `b` stands first in it."""
        low, high = sorted((match.a.shown, match.b.shown))
        names = (match.problem.problem_id, low, high)
        sampling = replace(self.sampling, temperature=self.tie_temperature, seed=self.seed).for_request(*names)
        coin = hashlib.sha256("\0".join(("order", str(self.seed), *names)).encode()).digest()[0] % 2
        first, second = (high, low) if coin else (low, high)
        return GenerationRequest(self.prompt(match.problem, first, second), sampling), first != match.a.shown

    def _ask(self, requests: Sequence[GenerationRequest]) -> dict[str, str | None]:
        """Verdict per request key; each distinct request that is not known yet is sent once."""
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
