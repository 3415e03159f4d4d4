"""Scores for the responses of one prompt, from a judge that compares two of them.

GRPO needs one number per response; a critic compares pairs. A *schedule* says which pairs are compared, a *scheme*
makes scores of the outcomes, and `group_scores` runs both. Every match is judged in both orders.

| scheme | schedule | score of a response, in [0, 1] |
|---|---|---|
| `win_rate` | round robin: d (d - 1) / 2 matches | mean share of its matches |
| `knock_out` | a seeded bracket: d - 1 matches | rounds survived / rounds |
| `bradley_terry` | a ring: each against `neighbours` others | chance to beat the average response |
| `margin` | each against a reference | share of its match against the reference |

d is the number of different answers: equal answers are one player, share its matches, and get the same score.

What a match is worth is fixed here, never drawn: a win in one order is worth 1 to the winner, a tie 0.5 to each, an
unreadable verdict 0.5 to each. The *share* of a match is the mean over both orders, so a verdict that flips with the
order is worth 0.5 to each. A judge that fails (`JudgeFailedError`: no answer, as opposed to an unreadable one) leaves
the whole group unjudged: equal scores, hence no advantage.

The win rate in a round robin is the reward that OpenPipe's RULER and pairwise-RM work use in place of labels; the
knock-out is the paper's test-time selection (arXiv 2509.00676, section 5). Bradley and Terry, 1952, fitted by the MM
algorithm of Hunter, 2004.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Scheme = Literal["win_rate", "knock_out", "bradley_terry", "margin"]
SCHEMES: tuple[Scheme, ...] = ("win_rate", "knock_out", "bradley_terry", "margin")

Judge = Callable[[str, str], Awaitable[str | None]]
"""Compares two responses as shown: `"1"`, `"2"`, `"tie"`, or None when its verdict cannot be read."""

_WORTH = {"1": 1.0, "2": 0.0, "tie": 0.5, None: 0.5}


class JudgeFailedError(RuntimeError):
    """The judge gave no answer, after its own retries."""


@dataclass(frozen=True)
class JudgedMatch:
    """One match between two players, judged in both orders.

    first, second: players, as indices of different answers; -1 is the reference.
    verdicts: with `first` shown first, and with `second` shown first.
    """

    first: int
    second: int
    verdicts: tuple[str | None, str | None]

    @property
    def share(self) -> float:
        """What the match is worth to `first`, in [0, 1]."""
        shown_first, shown_second = self.verdicts
        return (_WORTH[shown_first] + 1.0 - _WORTH[shown_second]) / 2

    @property
    def readable(self) -> int:
        """How many of the two verdicts could be read."""
        return sum(verdict is not None for verdict in self.verdicts)

    @property
    def flipped(self) -> bool:
        """Whether the verdict names the same place in both orders."""
        return self.verdicts[0] == self.verdicts[1] and self.verdicts[0] in ("1", "2")


@dataclass
class GroupScores:
    """Scores of a group.

    scores: one per response, in [0, 1]; all 0.5 where the group is unjudged.
    judged: False when the judge failed, or when all answers are equal.
    failure: why the judge failed; "" when it did not.
    matches: every match that was judged.
    """

    scores: list[float]
    judged: bool = True
    failure: str = ""
    matches: list[JudgedMatch] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """For a log: `matches`, `unreadable` (share of verdicts), `flipped` (share of matches), `first_place` (share of
        readable verdicts for the response shown first; 0.5 without bias), `spread` (largest score - smallest)."""
        verdicts = [verdict for match in self.matches for verdict in match.verdicts]
        read = [verdict for verdict in verdicts if verdict is not None]
        decided = [verdict for verdict in read if verdict != "tie"]
        return {
            "matches": float(len(self.matches)),
            "unreadable": 1 - len(read) / len(verdicts) if verdicts else 0.0,
            "flipped": sum(match.flipped for match in self.matches) / len(self.matches) if self.matches else 0.0,
            "first_place": decided.count("1") / len(decided) if decided else 0.5,
            "spread": max(self.scores) - min(self.scores),
        }


def win_rates(players: int, matches: Sequence[JudgedMatch]) -> list[float]:
    """The mean share of each player's matches; 0.5 without matches.

    >>> win_rates(2, [JudgedMatch(0, 1, ("1", "2"))])
    [1.0, 0.0]
    """
    total, played = [0.0] * players, [0] * players
    for match in matches:
        for player, share in ((match.first, match.share), (match.second, 1 - match.share)):
            if player >= 0:
                total[player] += share
                played[player] += 1
    return [total[i] / played[i] if played[i] else 0.5 for i in range(players)]


def bradley_terry(
    players: int, matches: Sequence[JudgedMatch], *, prior: float = 0.5, iterations: int = 200, tolerance: float = 1e-9
) -> list[float]:
    """The chance of each player to beat the average player, by the Bradley-Terry model.

    Args:
        prior: virtual drawn matches of each player against an average one; keeps strengths finite. More than 0.
        iterations, tolerance: of the MM algorithm, on the log strengths.

    Returns:
        strength / (strength + 1), for the strengths of the largest posterior; the average player's strength is 1.

    Raises:
        ValueError: `prior` is not positive.

    >>> [round(score, 2) for score in bradley_terry(2, [JudgedMatch(0, 1, ("1", "2"))])]
    [0.73, 0.27]
    """
    if not prior > 0:
        raise ValueError(f"prior must be positive, not {prior!r}")
    wins = [prior / 2] * players
    opponents: list[list[int]] = [[] for _ in range(players)]
    for match in matches:
        wins[match.first] += match.share
        wins[match.second] += 1 - match.share
        opponents[match.first].append(match.second)
        opponents[match.second].append(match.first)
    strength = [1.0] * players
    for _ in range(iterations):
        updated = [
            wins[i] / (prior / (strength[i] + 1) + sum(1 / (strength[i] + strength[j]) for j in opponents[i]))
            for i in range(players)
        ]
        change = max(abs(math.log(a / b)) for a, b in zip(updated, strength, strict=True))
        strength = updated
        if change < tolerance:
            break
    return [value / (value + 1) for value in strength]


async def group_scores(
    responses: Sequence[str],
    judge: Judge,
    *,
    scheme: Scheme = "knock_out",
    reference: str | None = None,
    answers: Sequence[str] | None = None,
    neighbours: int = 2,
    round_robin_up_to: int = 4,
    seed: int = 0,
) -> GroupScores:
    """Score the responses of one prompt.

    Args:
        responses: what the judge is shown; at least one.
        judge: compares two responses; called concurrently, each pair in both orders.
        scheme: see the module.
        reference: for `margin`: what every response is compared with, such as the greedy answer.
        answers: what makes two responses equal, such as the text in the box; default: the responses.
        neighbours: for `bradley_terry`: opponents of each player to either side of a seeded ring.
        round_robin_up_to: `knock_out` plays a round robin, scored by win rate, where no more answers than this differ.
        seed: of the bracket and the ring.

    Raises:
        ValueError: an unknown scheme, `margin` without a reference, or sequences of different lengths.
    """
    keys = list(responses if answers is None else answers)
    if scheme not in SCHEMES:
        raise ValueError(f"scheme {scheme!r} is none of {', '.join(SCHEMES)}")
    if len(keys) != len(responses) or not keys:
        raise ValueError(f"{len(responses)} responses and {len(keys)} answers: give one answer for each response")
    if scheme == "margin" and reference is None:
        raise ValueError("the scheme margin compares with a reference: give one")
    places: dict[str, int] = {}
    for key in keys:
        places.setdefault(key, len(places))
    shown = [responses[keys.index(key)] for key in places]
    if len(shown) == 1 and scheme != "margin":
        return GroupScores([0.5] * len(keys), judged=False)
    order = list(range(len(shown)))
    random.Random(seed).shuffle(order)
    played: list[JudgedMatch] = []

    async def play(pairs: Sequence[tuple[int, int]]) -> list[JudgedMatch]:
        def text(player: int) -> str:
            return shown[player] if player >= 0 else str(reference)

        asked = [judge(text(a), text(b)) for i, j in pairs for a, b in ((i, j), (j, i))]
        verdicts = await asyncio.gather(*asked, return_exceptions=True)
        for verdict in verdicts:
            if isinstance(verdict, BaseException):
                raise verdict
        read = [verdict if verdict in _WORTH else None for verdict in verdicts]
        found = [JudgedMatch(i, j, (read[2 * k], read[2 * k + 1])) for k, (i, j) in enumerate(pairs)]
        played.extend(found)
        return found

    try:
        if scheme == "margin":
            scores = win_rates(len(shown), await play([(i, -1) for i in range(len(shown))]))
        elif scheme == "win_rate" or (scheme == "knock_out" and len(shown) <= round_robin_up_to):
            pairs = [(i, j) for i in range(len(shown)) for j in range(i)]
            scores = win_rates(len(shown), await play(pairs))
        elif scheme == "bradley_terry":
            ring = {
                tuple(sorted((order[k], order[(k + step) % len(order)])))
                for k in range(len(order))
                for step in range(1, min(neighbours, len(order) // 2) + 1)
            }
            scores = bradley_terry(len(shown), await play(sorted((a, b) for a, b in ring)))
        else:
            scores = await _knock_out(order, play)
    except JudgeFailedError as error:
        return GroupScores([0.5] * len(keys), judged=False, failure=str(error), matches=played)
    return GroupScores([scores[places[key]] for key in keys], matches=played)


async def _knock_out(
    order: list[int], play: Callable[[Sequence[tuple[int, int]]], Awaitable[list[JudgedMatch]]]
) -> list[float]:
    """Rounds survived / rounds; a drawn match is won by the earlier place of the seeded bracket."""
    rounds = math.ceil(math.log2(len(order)))
    scores = [0.0] * len(order)
    alive = list(order)
    for survived in range(1, rounds + 1):
        bye = alive[-1:] if len(alive) % 2 else []
        matches = await play(list(zip(alive[0::2], alive[1::2], strict=False)))
        alive = [match.first if match.share >= 0.5 else match.second for match in matches] + bye
        for player in alive:
            scores[player] = survived / rounds
    return scores


def rewards(group: GroupScores, formats: Sequence[float], *, format_weight: float = 0.1) -> list[dict[str, Any]]:
    """The group's scores with the paper's format part, as verl's reward dicts: the same keys on every path.

    Args:
        formats: 1.0 for a well-formed response, 0.0 for another.
        format_weight: the format's share of the score; 0.1 in the paper.

    Returns:
        for each response `score`, `acc` (the judge's score), `format`, `pred` (""), `reason` (`ok`, `unjudged`).
        Where the group is unjudged every score is 0, formats included, so that nothing has an advantage.
    """
    return [
        {
            "score": (1 - format_weight) * score + format_weight * form if group.judged else 0.0,
            "acc": score,
            "format": form,
            "pred": "",
            "reason": "ok" if group.judged else "unjudged",
        }
        for score, form in zip(group.scores, formats, strict=True)
    ]
