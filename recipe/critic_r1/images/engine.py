"""verl's FSDP engine that computes a prompt once, and makes the next micro-batches' images while it computes this one.

Imported through ``actor_rollout_ref.model.external_lib``. verl's registry takes an engine for a vendor before the one
for its device, which leaves verl's own engine in place for everybody else.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils
from verl.utils.device import get_device_name
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl

from recipe.critic_r1 import compat
from recipe.critic_r1.images import prompt_attention, prompt_path, prompts
from recipe.critic_r1.images.encoded import PIXELS, pixel_cache
from recipe.critic_r1.images.vision_dedup import Places, only_pixels_apart, see_once, without_repeats

INPUTS = "multi_modal_inputs"
MICRO_BATCHES = "micro_batch_rows"
"""Non-tensor of a batch: the rows of each of its micro-batches."""

_SPLIT_BY = (
    *("use_dynamic_bsz", "sp_size", "force_group_size", "max_token_len_per_gpu", "micro_batch_size_per_gpu"),
    MICRO_BATCHES,
)

compat.text_only_micro_batches()
compat.micro_batches_of_named_rows(MICRO_BATCHES)
compat.registered_attention_where_asked(prompt_attention.LAYOUT)


class PreparesImages:
    """Mixin of an engine: computes a prompt once for its rollouts, shows each image once a micro-batch.

    Before it computes a batch it names the batch's images, so that they are made in time.
    """

    ulysses_sequence_parallel_size: int
    get_data_parallel_group: Callable[[], Any]
    module: Any
    model_config: Any
    engine_config: Any
    rank: int
    _places: Places = None
    _has_tower = False
    _pack: prompts.Pack | None = None
    _text_config: Any = None
    _stock_reason: str | None = "the engine is not initialized"
    _said: str | None = None

    def initialize(self) -> None:
        super().initialize()  # type: ignore[misc]
        self._has_tower = see_once(self.module, lambda: self._places)
        self._stock_reason = self._reason_for_stock()

    def _reason_for_stock(self) -> str | None:
        """Prepare the model for shared prompts, or say why it is trained verl's way."""
        text, config = prompts.text_model_of(self.module), self.model_config.hf_config
        if text is None:
            return "the model has no language model of its own"
        text_config: Any = text.config
        reason = prompt_path.reason_for_stock(text_config, config.model_type, self.ulysses_sequence_parallel_size)
        if reason is not None:
            return reason
        if self.engine_config.pad_to_length:
            return "pad_to_length pads packed sequences"
        self._text_config, self._stock_attention = text_config, text_config._attn_implementation
        if torch.cuda.is_available():
            dtype = getattr(self, "_autocast_dtype", torch.bfloat16)
            if dtype not in (torch.bfloat16, torch.float16):
                return f"flash attention does not compute in {dtype}"
            heads, key_heads = text_config.num_attention_heads, text_config.num_key_value_heads
            size = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
            try:
                right = prompt_attention.kernels_are_right("cuda", heads, key_heads, size)
            except RuntimeError as error:
                return f"torch's flash attention does not run on this GPU ({error})"
            if not right:
                return "torch's flash attention on this GPU gives other numbers than attention with a mask"
        prompts.show_predicting(text, lambda: self._pack)
        return None

    def _agreed(self, values: list[int]) -> list[int]:
        """The largest of each value over the data-parallel ranks."""
        found = torch.tensor(values, device=get_device_name())
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX, group=self.get_data_parallel_group())
        return found.tolist()

    def _with_shared_prompts(self, data: TensorDict) -> TensorDict:
        """The batch with its micro-batches named, where prompts are to be computed once; else as it is."""

        def setting(name: str, default: Any) -> Any:
            return tensordict_utils.get_non_tensor_data(data, name, default)

        if setting(prompt_path.PROMPT_PATH, prompt_path.STOCK) != prompt_path.ONCE:
            return data
        groups, reason = None, self._stock_reason
        if reason is None:
            config = self.model_config.hf_config
            groups = prompts.groups_of(data, (config.image_token_id, config.video_token_id))
            if groups is None or setting("force_group_size", 1) > 1:
                groups, reason = None, "a batch has videos, images in responses, or rows without a known prompt"
        if self._agreed([groups is None]) != [0]:
            if self.rank == 0 and reason is not None and reason != self._said:
                print(f"critic-r1: critic_r1.prompt_path=once, but prompts are computed for each response: {reason}")
                self._said = reason
            return data
        assert groups is not None
        if setting("use_dynamic_bsz", True):
            parts = prompts.cut(groups, self._agreed, tokens=data["max_token_len_per_gpu"])
        else:
            parts = prompts.cut(groups, self._agreed, rows=data["micro_batch_size_per_gpu"])
        data = data.copy()
        column = torch.zeros(len(data), 2, dtype=torch.long)
        for number, group in enumerate(groups):
            column[list(group.rows)] = torch.tensor([number, group.prompt])
        data[prompts.GROUPS] = column
        # verl restores the order of rows that `use_dynamic_bsz` has changed.
        tensordict_utils.assign_non_tensor_data(data, "use_dynamic_bsz", True)
        tensordict_utils.assign_non_tensor_data(data, MICRO_BATCHES, parts)
        return data

    def forward_backward_batch(self, data: TensorDict, loss_function: Any, forward_only: bool = False) -> Any:
        data = self._with_shared_prompts(data)
        if INPUTS in data.keys():  # noqa: SIM118  (a TensorDict)
            # Every rank takes part, images or not: to agree on the number of micro-batches is a collective call.
            # A pass for log-probabilities shows all that the step will show; the update comes a mini-batch at a time.
            pixel_cache().expect(self._to_come(data), only=forward_only)
        try:
            return super().forward_backward_batch(data, loss_function, forward_only)  # type: ignore[misc]
        finally:
            self._use(None)

    def _use(self, pack: prompts.Pack | None) -> None:
        """Compute this pack next, or with None a micro-batch in verl's way.

        Gradient checkpointing computes layers again in the backward pass, so that a choice holds until the next.
        """
        self._pack = pack
        if self._text_config is not None:
            self._text_config._attn_implementation = self._stock_attention if pack is None else prompt_attention.NAME

    def prepare_model_inputs(self, micro_batch: TensorDict) -> Any:
        self._places = None
        if prompts.GROUPS in micro_batch.keys():  # noqa: SIM118
            self._use(pack := prompts.Pack(micro_batch))
            model_inputs, output_args = pack.inputs(micro_batch)
            if INPUTS in micro_batch.keys():  # noqa: SIM118
                inputs, self._places = self._shown(micro_batch, pack.leaders)
                model_inputs.update(_joined(inputs))
            return model_inputs, output_args
        self._use(None)
        if INPUTS not in micro_batch.keys():  # noqa: SIM118
            return super().prepare_model_inputs(micro_batch)  # type: ignore[misc]
        inputs, self._places = self._shown(micro_batch)
        # verl reads the images' tensors under this name; ours are joined here, in the same way.
        stored = micro_batch.pop(INPUTS)
        try:
            model_inputs, output_args = super().prepare_model_inputs(micro_batch)  # type: ignore[misc]
        finally:
            micro_batch[INPUTS] = stored
        model_inputs.update(_joined(inputs))
        return model_inputs, output_args

    def prepare_model_outputs(
        self, output: Any, output_args: Any, micro_batch: TensorDict, logits_processor_func: Any
    ) -> Any:
        if self._pack is None:
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)  # type: ignore[misc]
        predicted = self._pack.predicted_alone(micro_batch)
        return self._pack.put_back(
            super().prepare_model_outputs(output, output_args, predicted, logits_processor_func)  # type: ignore[misc]
        )

    def _to_come(self, data: TensorDict) -> Iterator[Any]:
        """The inputs of the batch's rollouts in the order in which they will be computed, without repeats."""
        tensordict_utils.assign_non_tensor(data, sp_size=self.ulysses_sequence_parallel_size)
        # Split as the engine will split it; only lengths and inputs matter, so nothing else comes along.
        names = (name for name in (INPUTS, *_SPLIT_BY) if name in data.keys())  # noqa: SIM118
        group = self.get_data_parallel_group()
        parts, _ = transformer_impl.prepare_micro_batches(
            data.select("input_ids", *names), dp_group=group, same_micro_num_in_dp=True
        )
        return (item for part in parts for item in self._shown(part)[0])

    def _shown(self, micro_batch: TensorDict, rows: list[int] | None = None) -> tuple[list[Any], Places]:
        inputs = [getattr(item, "data", item) for item in micro_batch[INPUTS]]
        if rows is not None:
            inputs = [inputs[row] for row in rows]
        return without_repeats(inputs) if self._has_tower else (inputs, None)


def _joined(inputs: list[Any]) -> dict[str, Any]:
    """The tensors of several rollouts' images, joined as verl joins them."""
    inputs, pixels = only_pixels_apart(inputs)
    joined = transformer_impl.extract_multi_modal_inputs(inputs)
    return joined if pixels is None else {**joined, PIXELS: pixels}


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cuda", vendor="nvidia")
class ImagePreparingEngine(PreparesImages, transformer_impl.FSDPEngineWithLMHead):  # type: ignore[misc]
    """Actor and reference on NVIDIA GPUs."""
