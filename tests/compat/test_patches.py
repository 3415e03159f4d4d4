"""A batch whose rollouts all have the same length is split like any other (verl 0.9.1 alone fails on it)."""

import pytest
import torch
import verl  # noqa: F401  (loads the plug-in, and with it the patch)
from tensordict import TensorDict
from verl.utils import tensordict_utils


@pytest.mark.parametrize(
    "lengths",
    [
        [6, 6, 6, 6],  # all equal
        [1, 1, 1, 1],  # a single token each
        [5, 6, 5, 7],
        [6, 6, 6, 7],
    ],
)
@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_position_ids_survive_the_way_into_micro_batches(lengths: list[int], chunks: int) -> None:
    ids = [torch.arange(4 * n).view(4, n) + 1000 * i for i, n in enumerate(lengths)]
    # As TransferQueue packs them, and as verl's workers take them apart.
    data = TensorDict({"position_ids": torch.nested.as_nested_tensor(ids, layout=torch.jagged)}, batch_size=len(ids))
    tensordict_utils.maybe_fix_3d_position_ids(data)
    parts = [part["position_ids"] for part in tensordict_utils.chunk_tensordict(data, chunks)]
    assert all(part._ragged_idx == 2 for part in parts)
    found = [
        part.values()[:, start:end]
        for part in parts
        for start, end in zip(part.offsets()[:-1].tolist(), part.offsets()[1:].tolist(), strict=True)
    ]
    assert len(found) == len(ids)
    assert all(torch.equal(one, other) for one, other in zip(found, ids, strict=True))


def test_text_positions_are_left_alone() -> None:
    packed = torch.nested.as_nested_tensor([torch.arange(3), torch.arange(3)], layout=torch.jagged)
    data = TensorDict({"position_ids": packed}, batch_size=2)
    tensordict_utils.maybe_fix_3d_position_ids(data)
    assert data["position_ids"] is packed or torch.equal(data["position_ids"].values(), packed.values())
