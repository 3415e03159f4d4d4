"""verl's FSDP engine that makes the pictures of the next micro-batches while it computes the present one.

Imported through ``actor_rollout_ref.model.external_lib``. verl's registry takes an engine for a vendor before the one
for its device, which leaves verl's own engine in place for everybody else.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tensordict import TensorDict
from verl.utils import tensordict_utils
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.engine.utils import prepare_micro_batches

from recipe.critic_r1 import compat
from recipe.critic_r1.pictures.inputs import pixel_cache

INPUTS = "multi_modal_inputs"
_SPLIT_BY = ("use_dynamic_bsz", "sp_size", "force_group_size", "max_token_len_per_gpu", "micro_batch_size_per_gpu")

compat.pad_cross_attention_masks()
compat.text_only_micro_batches()


class PreparesPictures:
    """Mixin of an engine: names the pictures of a batch, in the order of its micro-batches, before computing them."""

    ulysses_sequence_parallel_size: int
    get_data_parallel_group: Callable[[], Any]

    def forward_backward_batch(self, data: TensorDict, loss_function: Any, forward_only: bool = False) -> Any:
        if INPUTS in data.keys():  # noqa: SIM118  (a TensorDict)
            # Every rank takes part, pictures or not: to agree on the number of micro-batches is a collective call.
            order = self._order(data)
            inputs = [getattr(item, "data", item) for item in data[INPUTS]]
            pixel_cache().expect(inputs[i] for i in order)
        return super().forward_backward_batch(data, loss_function, forward_only)  # type: ignore[misc]

    def _order(self, data: TensorDict) -> Sequence[int]:
        """Places of the batch's rollouts in the order in which they will be computed."""
        tensordict_utils.assign_non_tensor(data, sp_size=self.ulysses_sequence_parallel_size)
        # Split as the engine will split it; only lengths matter, so nothing else comes along.
        lengths = data.select("input_ids", *(name for name in _SPLIT_BY if name in data.keys()))  # noqa: SIM118
        _, places = prepare_micro_batches(lengths, dp_group=self.get_data_parallel_group(), same_micro_num_in_dp=True)
        if places is None:
            return range(len(data))
        return [i for micro_batch in places for i in micro_batch]


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cuda", vendor="nvidia")
class PicturePreparingEngine(PreparesPictures, FSDPEngineWithLMHead):
    """Actor and reference on NVIDIA GPUs."""
