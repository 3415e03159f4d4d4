"""Random order of rows in which the two orders of a pair stand side by side, so that they meet in one batch.

verl offers a random and a sequential sampler. The random one puts the two orders of a pair into different batches,
where nobody can compare them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler


class PairedSampler(Sampler[int]):
    """Yields all row indices, pairs shuffled anew in each epoch by ``seed + epoch``; its state can be saved.

    Args:
        pair_ids: the pair of each row, in the order of the data set.
        seed: of the first epoch.
    """

    def __init__(self, pair_ids: Sequence[str], seed: int) -> None:
        groups: dict[str, list[int]] = {}
        for row, pair_id in enumerate(pair_ids):
            groups.setdefault(pair_id, []).append(row)
        self._groups = list(groups.values())
        self._rows = len(pair_ids)
        self._seed = seed
        self._epoch = -1
        self._done = 0
        self._resumed = False

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[int]:
        if self._resumed:
            self._resumed = False
        else:
            self._epoch, self._done = self._epoch + 1, 0
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self._groups), generator=generator).tolist()
        rows = _in_twos([self._groups[group] for group in order])
        while self._done < len(rows):
            self._done += 1
            yield rows[self._done - 1]

    def state_dict(self) -> dict[str, Any]:
        """Epoch and number of rows yielded in it."""
        return {"epoch": self._epoch, "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._epoch, self._done = state["epoch"], state["done"]
        self._resumed = True


def _in_twos(groups: Sequence[list[int]]) -> list[int]:
    """The rows of all groups in order, a group of odd size drawn up to the one before it of odd size.

    Every group of two then starts at an even place, so that a batch of even size cannot part it.
    """
    rows: list[int] = []
    waiting: list[int] = []
    for group in groups:
        if len(group) % 2 == 0:
            rows += group
        elif waiting:
            rows += waiting + group
            waiting = []
        else:
            waiting = group
    return rows + waiting
