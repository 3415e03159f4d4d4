"""Responses to one prompt that a critic compared, with their matches in the order in which they were played.

In a knock-out the columns of a group are the rounds of its bracket. Responses with the same answer are one player.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from recipe.critic_r1.report.records import RolloutLine

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
            [_told(match.against, match.share, match.verdicts) for match in (equal[0].matches or [])[:SHOWN_MATCHES]],
        )
        for equal in players.values()
    ]
    found.sort(key=lambda player: -(player.score if player.score is not None else -1.0))
    cut = sum(max(0, len(equal[0].matches or ()) - SHOWN_MATCHES) for equal in players.values())
    title = f"{run} · step {lines[0].step}" if run else f"step {lines[0].step}"
    return GroupCard(title, lines[0].prompt, found, max(len(player.matches) for player in found), cut)


def _told(against: int, share: float | None, verdicts: Sequence[str | None]) -> str:
    """A match in words, with the verdicts when the response was shown first and second.

    >>> _told(3, 1.0, ("1", "2")), _told(-1, 0.5, ("1", None))
    ('beats 3 (1, 2)', 'draws with the reference (1, unreadable)')
    """
    outcome = "draws with" if share is None or share == 0.5 else "beats" if share > 0.5 else "loses to"
    other = "the reference" if against < 0 else str(against)
    return f"{outcome} {other} ({', '.join(verdict or 'unreadable' for verdict in verdicts)})"
