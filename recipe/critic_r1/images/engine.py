"""verl's FSDP engine that makes the images of the next micro-batches while it computes the present one.

Imported through ``actor_rollout_ref.model.external_lib``. verl's registry takes an engine for a vendor before the one
for its device, which leaves verl's own engine in place for everybody else.
"""

from collections.abc import Callable, Iterator
from typing import Any

from tensordict import TensorDict
from verl.utils import tensordict_utils
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine.utils import prepare_micro_batches

from recipe.critic_r1 import compat
from recipe.critic_r1.images.encoded import PIXELS, pixel_cache
from recipe.critic_r1.images.vision_dedup import Places, only_pixels_apart, see_once, without_repeats

INPUTS = "multi_modal_inputs"
_SPLIT_BY = ("use_dynamic_bsz", "sp_size", "force_group_size", "max_token_len_per_gpu", "micro_batch_size_per_gpu")

compat.text_only_micro_batches()


class PreparesImages:
    """Mixin of an engine: names the images of a batch before computing it, and sees each once a micro-batch."""

    ulysses_sequence_parallel_size: int
    get_data_parallel_group: Callable[[], Any]
    module: Any
    _places: Places = None
    _has_tower = False

    def initialize(self) -> None:
        super().initialize()  # type: ignore[misc]
        self._has_tower = see_once(self.module, lambda: self._places)

    def forward_backward_batch(self, data: TensorDict, loss_function: Any, forward_only: bool = False) -> Any:
        if INPUTS in data.keys():  # noqa: SIM118  (a TensorDict)
            # Every rank takes part, images or not: to agree on the number of micro-batches is a collective call.
            # A pass for log-probabilities shows all that the step will show; the update comes a mini-batch at a time.
            pixel_cache().expect(self._to_come(data), only=forward_only)
        return super().forward_backward_batch(data, loss_function, forward_only)  # type: ignore[misc]

    def prepare_model_inputs(self, micro_batch: TensorDict) -> Any:
        self._places = None
        if INPUTS not in micro_batch.keys():  # noqa: SIM118
            return super().prepare_model_inputs(micro_batch)  # type: ignore[misc]
        inputs, self._places = self._shown(micro_batch)
        inputs, pixels = only_pixels_apart(inputs)
        # verl reads the images' tensors under this name; ours are joined here, in the same way.
        stored = micro_batch.pop(INPUTS)
        try:
            model_inputs, output_args = super().prepare_model_inputs(micro_batch)  # type: ignore[misc]
        finally:
            micro_batch[INPUTS] = stored
        model_inputs.update(transformer_impl.extract_multi_modal_inputs(inputs))
        if pixels is not None:
            model_inputs[PIXELS] = pixels
        return model_inputs, output_args

    def _to_come(self, data: TensorDict) -> Iterator[Any]:
        """The inputs of the batch's rollouts in the order in which they will be computed, without repeats."""
        tensordict_utils.assign_non_tensor(data, sp_size=self.ulysses_sequence_parallel_size)
        # Split as the engine will split it; only lengths and inputs matter, so nothing else comes along.
        names = (name for name in (INPUTS, *_SPLIT_BY) if name in data.keys())  # noqa: SIM118
        group = self.get_data_parallel_group()
        parts, _ = prepare_micro_batches(data.select("input_ids", *names), dp_group=group, same_micro_num_in_dp=True)
        return (item for part in parts for item in self._shown(part)[0])

    def _shown(self, micro_batch: TensorDict) -> tuple[list[Any], Places]:
        inputs = [getattr(item, "data", item) for item in micro_batch[INPUTS]]
        return without_repeats(inputs) if self._has_tower else (inputs, None)


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cuda", vendor="nvidia")
class ImagePreparingEngine(PreparesImages, transformer_impl.FSDPEngineWithLMHead):
    """Actor and reference on NVIDIA GPUs."""
