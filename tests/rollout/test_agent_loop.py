"""Position ids of a prompt and its response, against the model's own rule; and verl as the rollout code knows it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from recipe.critic_r1 import compat
from recipe.critic_r1.compat.pinned_sources import FUNCTIONS, REMEDY
from recipe.critic_r1.rollout.agent_loop import extend_position_ids


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_model)


@pytest.mark.parametrize(
    "grids",
    [
        [],  # text only
        [(1, 4, 4)],  # the demo's image
        [(1, 4, 20)],  # wide: the vision rows end at different positions
        [(1, 20, 4)],  # high
        [(1, 4, 4), (1, 8, 6), (1, 4, 4)],  # several
    ],
)
@pytest.mark.parametrize("tail", [0, 5])  # text after the last image: none, some
@pytest.mark.parametrize("response", [0, 1, 17])
def test_extension_equals_the_rule_on_the_whole_sequence(
    model: Any, grids: list[tuple[int, int, int]], tail: int, response: int
) -> None:
    image = model.config.image_token_id
    ids = [3, 4]
    for t, h, w in grids:
        ids += [model.config.vision_start_token_id] + [image] * (t * h * w // 4) + [5]
    ids += [6] * tail

    def positions(tokens: list[int]) -> torch.Tensor:
        """(4, S), as verl stacks them."""
        row = torch.tensor([tokens])
        vision, _ = model.model.get_rope_index(
            row,
            mm_token_type_ids=(row == image).int(),
            image_grid_thw=torch.tensor(grids) if grids else None,
            attention_mask=torch.ones_like(row),
        )
        return torch.cat([torch.arange(len(tokens)).view(1, -1), vision[:, 0]])

    extended = extend_position_ids(positions(ids), response)
    assert torch.equal(extended, positions(ids + [7] * response))


def test_one_dimensional_positions_count_on() -> None:
    assert extend_position_ids(torch.arange(3), 2).tolist() == [0, 1, 2, 3, 4]


def test_verl_is_the_one_that_this_code_was_written_against() -> None:
    compat.check_sources(FUNCTIONS, REMEDY)


def _another(self: object) -> None:
    """A function that somebody put in the place of verl's."""


@pytest.mark.parametrize("gone", [False, True])
def test_a_function_of_verl_that_was_changed_is_named_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    from verl.experimental.agent_loop.agent_loop import AgentLoopWorker

    if gone:
        monkeypatch.delattr(AgentLoopWorker, "_compute_multi_modal_inputs")
    else:
        monkeypatch.setattr(AgentLoopWorker, "_compute_multi_modal_inputs", _another)
    with pytest.raises(compat.IncompatibleVersion, match=r"_compute_multi_modal_inputs\..*image_path=stock") as error:
        compat.check_sources(FUNCTIONS, REMEDY)
    assert "_compute_position_ids" not in str(error.value)
