"""The fixtures of the rooms whose commands are tested here."""

from tests.judging.conftest import said, scripted, task
from tests.selection.conftest import critic, pool, referee, rules

__all__ = ["critic", "pool", "referee", "rules", "said", "scripted", "task"]
