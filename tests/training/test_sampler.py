"""Both orders of a pair stand side by side, in an order that a resumed run goes on with."""

import pytest
from torchdata.stateful_dataloader import StatefulDataLoader

from recipe.critic_r1.training.sampler import PairedSampler

PAIRS = [f"p{i}" for i in range(8) for _ in range(2)]


def loader(seed: int = 0) -> StatefulDataLoader:
    return StatefulDataLoader(list(range(len(PAIRS))), batch_size=4, sampler=PairedSampler(PAIRS, seed), drop_last=True)


def batches(epochs: int, given: StatefulDataLoader | None = None) -> list[list[int]]:
    given = given or loader()
    return [batch.tolist() for _ in range(epochs) for batch in given]


def test_a_pair_is_never_parted() -> None:
    for batch in batches(3):
        assert [PAIRS[row] for row in batch[::2]] == [PAIRS[row] for row in batch[1::2]]


def test_rows_without_a_partner_part_nobody() -> None:
    pair_ids = ["a", "a", "single 1", "b", "b", "single 2", "c", "c", "single 3"]
    for seed in range(20):
        rows = list(PairedSampler(pair_ids, seed))
        assert sorted(rows) == list(range(9))
        places = {row: place for place, row in enumerate(rows)}
        for first in (0, 3, 6):
            assert places[first] % 2 == 0
            assert places[first + 1] == places[first] + 1


def test_an_epoch_holds_every_row_once_and_epochs_differ() -> None:
    first, second = batches(2)[:4], batches(2)[4:]
    for epoch in (first, second):
        assert sorted(row for batch in epoch for row in batch) == list(range(16))
    assert first != second
    assert batches(1, loader(1)) != first


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_a_resumed_loader_goes_on_with_the_same_rows(stop: int) -> None:
    whole = batches(2)
    before = loader()
    seen: list[list[int]] = []
    iterator = iter(before)
    while len(seen) < stop:
        try:
            seen.append(next(iterator).tolist())
        except StopIteration:
            iterator = iter(before)
    state = before.state_dict()
    after = loader()
    after.load_state_dict(state)
    rest: list[list[int]] = []
    while len(rest) < len(whole) - stop:
        rest += [batch.tolist() for batch in after]
    assert seen + rest == whole
