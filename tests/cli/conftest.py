"""The fixtures of the rooms whose commands are tested here."""

from tests.best_of_n.conftest import critic, pool, referee, rules
from tests.judging.conftest import said, scripted, task

__all__ = ["critic", "pool", "referee", "rules", "said", "scripted", "task"]
