"""The cost of a point of a best-of-N curve, and of a percentage point gained.

A point's cost is that of a run with only this N and this selector, for one question: sampling N candidates, and the
judgements of one block of N, averaged over blocks and questions like the point's value. Judgements shared with another
selector count in full. So do prompt tokens, as servers count them, without the savings of a prefix cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from recipe.critic_r1.selection.candidates import Pool
from recipe.critic_r1.selection.knock_out import Bracket
from recipe.critic_r1.selection.matches import MatchJudge

LEAST_GAIN = 1e-9
"""Gains below are rounding."""


@dataclass(frozen=True)
class PointCost:
    """Means per question; None when a server did not report the tokens of an answer.

    judgements: by the critic.
    judge_prompt_tokens, judge_completion_tokens: of the judgements.
    candidate_tokens: the prompt once, and N completions.
    """

    judgements: float
    judge_prompt_tokens: float | None
    judge_completion_tokens: float | None
    candidate_tokens: float | None

    @property
    def tokens(self) -> float | None:
        """All tokens of a question."""
        parts = (self.judge_prompt_tokens, self.judge_completion_tokens, self.candidate_tokens)
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def tokens_per_point(self, one_sample: PointCost, gain: float | None) -> float | None:
        """Extra tokens of a question per percentage point of accuracy gained over one sample.

        Args:
            gain: accuracy minus that of one sample.

        Returns:
            None when nothing was gained, or when the tokens are not known.
        """
        mine, base = self.tokens, one_sample.tokens
        if mine is None or base is None or gain is None or gain < LEAST_GAIN:
            return None
        return (mine - base) / (100 * gain)

    def as_dict(self) -> dict[str, float | None]:
        """For JSON."""
        return {**asdict(self), "tokens": self.tokens}


def sampling_cost(pools: Sequence[Pool], size: int) -> PointCost:
    """The cost of `size` candidates per question, without judgements."""
    if not all(pool.completion_tokens for pool in pools):
        return PointCost(0.0, 0.0, 0.0, None)
    tokens = [p.prompt_tokens + p.completion_tokens * min(1, size / len(p.candidates)) for p in pools]
    return PointCost(0.0, 0.0, 0.0, float(np.mean(tokens)))


def tournament_cost(pools: Sequence[Pool], brackets: Sequence[Bracket], level: int, judge: MatchJudge) -> PointCost:
    """The cost per question of a tournament of 2^level candidates, sampling included."""
    costs = [[judge.cost(names) for names in bracket.requests[level]] for bracket in brackets]

    def mean(field: str) -> float | None:
        rows = [[getattr(cost, field) for cost in row] for row in costs]
        if any(value is None for row in rows for value in row):
            return None
        return float(np.mean([np.mean(row) for row in rows]))

    return PointCost(
        judgements=mean("judgements") or 0.0,
        judge_prompt_tokens=mean("prompt_tokens"),
        judge_completion_tokens=mean("completion_tokens"),
        candidate_tokens=sampling_cost(pools, 1 << level).candidate_tokens,
    )
