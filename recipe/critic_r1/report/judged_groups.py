"""Responses to one prompt that a critic judged, with their matches in the order in which they were played.

In a knock-out the columns of a group are the rounds of its bracket. Responses with the same answer are one player. In
the scheme `pointwise` a player has the critic's score in place of matches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from recipe.critic_r1.report.records import MatchLine, RolloutLine

SHOWN_GROUPS = 6
"""The last ones of a run."""

SHOWN_MATCHES = 16
"""Per player; the page says how many more there are."""

LONGEST_RESPONSE = 300
"""Characters of a response, from its end, where the answer is."""


@dataclass(frozen=True)
class Player:
    """Responses with the same answer."""

    samples: str
    """Their numbers, such as `0, 4`."""
    response: str
    score: float | None
    """The critic's score, 0 to 1."""
    matches: list[str]


@dataclass(frozen=True)
class GroupCard:
    """One prompt's responses, the highest score first."""

    title: str
    prompt: str
    players: list[Player]
    rounds: int
    cut: int
    """Matches that are not shown."""


def judged_groups(rollouts: Sequence[RolloutLine], *, run: str = "") -> list[GroupCard]:
    """The last judged groups among the rollouts of a run; empty when no critic rewarded groups."""
    groups: dict[tuple[int, str], list[RolloutLine]] = {}
    for line in rollouts:
        if line.uid and line.matches is not None:
            groups.setdefault((line.step, line.uid), []).append(line)
    played = [lines for lines in groups.values() if any(line.matches for line in lines)]
    return [_group(lines, run) for lines in played[-SHOWN_GROUPS:]]


def _group(lines: Sequence[RolloutLine], run: str) -> GroupCard:
    players: dict[tuple[object, ...], list[RolloutLine]] = {}
    for line in lines:
        # A response that was not compared is a player of its own.
        player = (line.pred or line.response,) if line.matches else ("", line.sample)
        players.setdefault(player, []).append(line)
    found = [
        Player(
            ", ".join(str(line.sample) for line in equal),
            equal[0].response[-LONGEST_RESPONSE:],
            equal[0].acc,
            [_told(match) for match in (equal[0].matches or [])[:SHOWN_MATCHES]],
        )
        for equal in players.values()
    ]
    found.sort(key=lambda player: -(player.score if player.score is not None else -1.0))
    cut = sum(max(0, len(equal[0].matches or ()) - SHOWN_MATCHES) for equal in players.values())
    title = f"{run} · step {lines[0].step}" if run else f"step {lines[0].step}"
    return GroupCard(title, lines[0].prompt, found, max(len(player.matches) for player in found), cut)


def _told(match: MatchLine) -> str:
    """A match in words, with the verdicts when the response was shown first and second; or a score.

    >>> _told(MatchLine(against=3, share=1.0, verdicts=["1", "2"]))
    'beats 3 (1, 2)'
    >>> _told(MatchLine(against=-1, share=0.5, verdicts=["not asked", None]))
    'draws with the reference (not asked, unreadable)'
    >>> _told(MatchLine(score=0.7)), _told(MatchLine())
    ('scored 0.70', 'unreadable score')
    """
    if not match.verdicts:
        return "unreadable score" if match.score is None else f"scored {match.score:.2f}"
    share = 0.5 if match.share is None else match.share
    outcome = "draws with" if share == 0.5 else "beats" if share > 0.5 else "loses to"
    other = "the reference" if match.against < 0 else str(match.against)
    return f"{outcome} {other} ({', '.join(verdict or 'unreadable' for verdict in match.verdicts)})"
