"""Scores for the responses of one prompt, from a judge that compares two of them, or scores one.

GRPO needs one number per response; a critic compares pairs. A *schedule* says which pairs are compared, a *scheme*
makes scores of the outcomes, and `group_scores` runs both.

| scheme | schedule | score of a response, in [0, 1] |
|---|---|---|
| `win_rate` | round robin: d (d - 1) / 2 matches | mean share of its matches |
| `knock_out` | a seeded bracket: d - 1 matches | rounds survived / rounds |
| `bradley_terry` | a ring: each against `neighbours` others | chance to beat the average response |
| `margin` | each against a reference | share of its match against the reference |
| `pointwise` | no matches: d questions | the judge's score of this answer alone |

d is the number of different answers: equal answers are one player, share its matches, and get the same score.

What a match is worth is fixed here, never random: a win in one order is worth 1 to the winner, a tie 0.5 to each, an
unreadable verdict 0.5 to each. The *share* of a match is the mean over the orders in which it was judged. With
`orders="both"` a verdict that flips with the order is thus worth 0.5 to each. `orders="drawn"` asks once, for half the
cost: each response is shown first about as often as second, so that a preference for one place cancels out; in
`margin`, where a response has one match, the whole group has the same order. The seed decides the rest.

An unreadable pointwise score counts as the mean of the group's readable ones (0.5 without any), which gives it no
advantage. A constant would pay for confusing the judge wherever it lies above the mean, and punish the response for the
judge's fault elsewhere.

A judge that fails (`JudgeFailedError`: no answer, as opposed to an unreadable one) leaves the whole group unjudged:
equal scores, hence no advantage.

The win rate in a round robin is the reward that OpenPipe's RULER and pairwise-RM work use in place of labels; the
knock-out is the paper's test-time selection (arXiv 2509.00676, section 5). Bradley and Terry, 1952, fitted by the MM
algorithm of Hunter, 2004.
"""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

Scheme = Literal["win_rate", "knock_out", "bradley_terry", "margin", "pointwise"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

Orders = Literal["both", "drawn"]
"""In which orders a match is judged: both, or one that the seed decides."""

Judge = Callable[[str, str], Awaitable[str | None]]
"""Compares two responses as shown: `"1"`, `"2"`, `"tie"`, or None when its verdict cannot be read."""

Scorer = Callable[[str], Awaitable[float | None]]
"""Scores one response, from 0 to 1; None when its score cannot be read."""

NOT_ASKED = "not asked"
"""In the place of a verdict: the match was not judged in this order."""

T = TypeVar("T")

_WORTH = {"1": 1.0, "2": 0.0, "tie": 0.5, None: 0.5}


class JudgeFailedError(RuntimeError):
    """The judge gave no answer, after its own retries."""


@dataclass(frozen=True)
class JudgedMatch:
    """One match between two players.

    first, second: players, as indices of different answers; -1 is the reference.
    verdicts: with `first` shown first, and with `second` shown first; each as of a `Judge`, or NOT_ASKED.
    """

    first: int
    second: int
    verdicts: tuple[str | None, str | None]

    @property
    def share(self) -> float:
        """What the match is worth to `first`, in [0, 1]; 0.5 when nothing was asked."""
        shown_first, shown_second = self.verdicts
        worth = [] if shown_first == NOT_ASKED else [_WORTH[shown_first]]
        worth += [] if shown_second == NOT_ASKED else [1.0 - _WORTH[shown_second]]
        return sum(worth) / len(worth) if worth else 0.5

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
    points: in `pointwise`, the judge's score of each different answer; None where it is unreadable.
    """

    scores: list[float]
    judged: bool = True
    failure: str = ""
    matches: list[JudgedMatch] = field(default_factory=list)
    points: list[float | None] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """For a log.

        Always `matches`, `judgements` (verdicts and scores asked for) and `spread` (largest score - smallest); where
        there is something to measure also `unreadable` (share of judgements), `flipped` (share of the matches judged in
        both orders) and `first_place` (share of decided verdicts for the response shown first; 0.5 without bias).
        """
        verdicts = [verdict for match in self.matches for verdict in match.verdicts if verdict != NOT_ASKED]
        judgements = [*verdicts, *self.points]
        flips = [match.flipped for match in self.matches if NOT_ASKED not in match.verdicts]
        firsts = [verdict == "1" for verdict in verdicts if verdict in ("1", "2")]
        shares = {"unreadable": [one is None for one in judgements], "flipped": flips, "first_place": firsts}
        return {
            "matches": float(len(self.matches)),
            "judgements": float(len(judgements)),
            "spread": max(self.scores) - min(self.scores),
            **{name: sum(found) / len(found) for name, found in shares.items() if found},
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
    orders: Orders = "both",
    reference: str | None = None,
    reference_answer: str | None = None,
    score: Scorer | None = None,
    answers: Sequence[str] | None = None,
    neighbours: int = 2,
    round_robin_up_to: int = 4,
    seed: int = 0,
) -> GroupScores:
    """Score the responses of one prompt.

    Args:
        responses: what the judge is shown; at least one.
        judge: compares two responses; called concurrently.
        scheme, orders: see the module.
        reference: for `margin`: what every response is compared with, such as the greedy answer.
        reference_answer: responses with this answer draw against the reference unasked.
        score: for `pointwise`: scores one response; called concurrently.
        answers: what makes two responses equal, such as the text in the box; default: the responses.
        neighbours: for `bradley_terry`: opponents of each player to either side of a seeded ring.
        round_robin_up_to: `knock_out` plays a round robin, scored by win rate, where no more answers than this differ.
        seed: of the bracket, the ring and drawn orders.

    Raises:
        ValueError: an unknown scheme or order, `margin` without a reference, `pointwise` without `score`, or sequences
            of different lengths.
    """
    keys = list(responses if answers is None else answers)
    if scheme not in SCHEMES:
        raise ValueError(f"scheme {scheme!r} is none of {', '.join(SCHEMES)}")
    if orders not in get_args(Orders):
        raise ValueError(f"orders {orders!r} is none of {', '.join(get_args(Orders))}")
    if len(keys) != len(responses) or not keys:
        raise ValueError(f"{len(responses)} responses and {len(keys)} answers: give one answer for each response")
    if scheme == "margin" and reference is None:
        raise ValueError("the scheme margin compares with a reference: give one")
    if scheme == "pointwise" and score is None:
        raise ValueError("the scheme pointwise scores single responses: give score")
    places: dict[str, int] = {}
    for key in keys:
        places.setdefault(key, len(places))
    shown = [responses[keys.index(key)] for key in places]
    if len(shown) == 1 and scheme not in ("margin", "pointwise"):
        return GroupScores([0.5] * len(keys), judged=False)
    draw = random.Random(seed)
    order = list(range(len(shown)))
    draw.shuffle(order)
    reference_first = draw.random() < 0.5
    lead = Counter[int]()  # times shown first less times shown second
    played: list[JudgedMatch] = []
    points: list[float | None] = []

    def orders_of(i: int, j: int) -> list[tuple[int, int]]:
        """The orders, as (shown first, shown second), in which a match is judged."""
        if j < 0 and reference_answer is not None and places.get(reference_answer) == i:
            return []
        if orders == "both":
            return [(i, j), (j, i)]
        if reference_first if j < 0 else lead[i] > lead[j] or (lead[i] == lead[j] and draw.random() < 0.5):
            i, j = j, i
        lead[i] += 1
        lead[j] -= 1
        return [(i, j)]

    async def play(pairs: Sequence[tuple[int, int]]) -> list[JudgedMatch]:
        def text(player: int) -> str:
            return shown[player] if player >= 0 else str(reference)

        asked = [orders_of(*pair) for pair in pairs]
        verdicts = iter(await _all(judge(text(a), text(b)) for shown_in in asked for a, b in shown_in))
        found = []
        for (i, j), shown_in in zip(pairs, asked, strict=True):
            said = {pair: verdict if (verdict := next(verdicts)) in _WORTH else None for pair in shown_in}
            found.append(JudgedMatch(i, j, (said.get((i, j), NOT_ASKED), said.get((j, i), NOT_ASKED))))
        played.extend(found)
        return found

    try:
        if scheme == "pointwise":
            assert score is not None
            said = await _all(score(text) for text in shown)
            points = [point if point is not None and 0 <= point <= 1 else None for point in said]
            read = [point for key in keys if (point := points[places[key]]) is not None]
            mean = sum(read) / len(read) if read else 0.5
            scores = [mean if point is None else point for point in points]
        elif scheme == "margin":
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
    return GroupScores([scores[places[key]] for key in keys], matches=played, points=points)


async def _all(asked: Iterable[Awaitable[T]]) -> list[T]:
    """The answers, when all are there; then the first error is raised."""
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers  # type: ignore[return-value]


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
