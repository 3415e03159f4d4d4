"""Patches of verl that a run needs on any device, each with its reason.

A patch is written against the code of one function. When the installed code differs, the patch is not applied, and
`IncompatibleVersion` names the function.
"""

import functools
import importlib
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import wrapt

from data_prep.reading.images import BadImage, open_image
from recipe.critic_r1.compat.pinned_sources import PATCHED, REMEDY
from recipe.critic_r1.compat.versions import IncompatibleVersion, check_sources

logger = logging.getLogger(__name__)


def replace(name: str, make: Callable[[Any], Callable[..., Any]]) -> None:
    """`install`, after a check of the function's code.

    Raises:
        IncompatibleVersion: the function's code is not that of `PATCHED`.
    """
    check_sources({name: PATCHED[name]}, REMEDY)
    install(name, make)


def install(name: str, make: Callable[[Any], Callable[..., Any]]) -> None:
    """Replace the function ``module:name`` or ``module:Class.name`` by ``make(original)``, once a process."""
    module, _, path = name.partition(":")
    *owners, attribute = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    original = getattr(owner, attribute)
    if hasattr(original, "_critic_r1"):
        return
    replacement: Any = functools.wraps(original)(make(original))
    replacement._critic_r1 = True
    setattr(owner, attribute, replacement)


def apply() -> None:
    """Patches that every process of a run needs, on any platform; called by the plug-in at ``import verl``.

    A function of another release is left as it is, so that verl's own image path can be used with it.
    """
    try:
        replace("verl.utils.tensordict_utils:maybe_fix_3d_position_ids", _position_ids_of_equal_length)
    except IncompatibleVersion as error:
        logger.warning("critic-r1: a patch was not applied: %s", error)
    # Importing vLLM takes seconds, and few of a run's processes need it.
    wrapt.register_post_import_hook(serve_images_as_trained, "vllm.multimodal.media.image")


def _position_ids_of_equal_length(original: Callable[[Any], None]) -> Callable[[Any], None]:
    # TransferQueue packs a batch's position ids, (4, S) per rollout, into a jagged tensor. torch chooses the dimension
    # that differs as the ragged one; when all rollouts of a batch have the same length, it chooses the 4. verl then
    # declares the last dimension ragged, and the next step that splits the batch fails with a size mismatch. This
    # happens with a policy whose responses have all become equally long.
    def maybe_fix_3d_position_ids(data: Any) -> None:
        from verl.utils.tensordict_utils import nested_tensor_from_tensor_list

        ids = data["position_ids"] if "position_ids" in data.keys() else None  # noqa: SIM118  (a TensorDict)
        if ids is not None and ids.is_nested and ids.dim() == 3 and ids.values().shape[-1] != int(ids.offsets()[-1]):
            rows = ids.offsets().numel() - 1
            samples = list(ids.values().reshape(rows, -1, ids.values().shape[-1]).unbind())
            data["position_ids"] = nested_tensor_from_tensor_list(samples, ragged_idx=2)
        original(data)

    return maybe_fix_3d_position_ids


def serve_images_as_trained(module: ModuleType | None = None) -> None:
    """Make vLLM's server decode images as `open_image` does; also called by vLLM's own plug-in mechanism."""
    # vLLM clips 16-bit images to white and shows the colour of transparent pixels; training scales 16-bit images and
    # puts transparent ones on white.
    try:
        replace("vllm.multimodal.media.image:ImageMediaIO.load_bytes", _load_bytes)
    except IncompatibleVersion as error:
        logger.warning("critic-r1: vLLM decodes unusual images in its own way: %s", error)


def _load_bytes(original: Callable[..., Any]) -> Callable[..., Any]:
    from vllm.multimodal.media.base import MediaWithBytes

    def load_bytes(self: Any, data: bytes) -> Any:
        if self.image_mode != "RGB" or self.rgba_background_color != (255, 255, 255):
            return original(self, data)
        try:
            return MediaWithBytes(open_image(data), data)
        except BadImage as error:
            raise ValueError(f"Failed to load image: {error}") from error

    return load_bytes


def text_only_micro_batches() -> None:
    """Let a micro-batch of Qwen2-VL or Qwen2.5-VL consist of rows without images."""
    replace("verl.models.transformers.qwen2_vl:_get_input_embeds", _input_embeds)


def _input_embeds(original: Callable[..., Any]) -> Callable[..., Any]:
    # verl then runs the vision tower on an empty image, so that all workers take part in its collectives, and takes the
    # mean of the output. With transformers 5 that is an output object and not a tensor, and the step fails.
    import torch
    from verl.models.transformers import qwen2_vl

    def _get_input_embeds(
        model: Any,
        input_ids: Any,
        attention_mask: Any = None,
        pixel_values: Any = None,
        pixel_values_videos: Any = None,
        *grids: Any,
    ) -> Any:
        if pixel_values is not None or pixel_values_videos is not None:
            return original(model, input_ids, attention_mask, pixel_values, pixel_values_videos, *grids)
        embedded = model.get_input_embeddings()(input_ids)
        vision = model.config.vision_config
        patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        empty = torch.zeros((16, patch), dtype=embedded.dtype, device=embedded.device)
        grid = torch.tensor([[1, 4, 4]], dtype=torch.long, device=embedded.device)
        seen, _ = qwen2_vl.unpack_visual_output(model.visual(empty, grid_thw=grid))
        if attention_mask is not None:
            attention_mask = attention_mask.to(embedded.device)
        return embedded + 0.0 * seen.mean(), attention_mask

    return _get_input_embeds


def micro_batches_of_named_rows(name: str) -> None:
    """Let a batch say which rows make up its micro-batches: a non-tensor ``name`` with a list of rows for each."""

    # verl splits a batch by the lengths of its rollouts, in its loop over micro-batches.
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        from verl.utils import tensordict_utils

        def prepare_micro_batches(data: Any, *args: Any, **kwargs: Any) -> Any:
            parts = tensordict_utils.get_non_tensor_data(data, name, None)
            if parts is None:
                return original(data, *args, **kwargs)
            return [tensordict_utils.index_select_tensor_dict(data, part) for part in parts], parts

        return prepare_micro_batches

    replace("verl.workers.engine.fsdp.transformer_impl:prepare_micro_batches", make)


def registered_attention_where_asked(name: str) -> None:
    """Let Qwen2-VL and Qwen2.5-VL use transformers' own attention layer when it is called with an argument ``name``."""

    # To remove padding, verl replaces the layers' forward by one that always calls flash-attn. The attention for shared
    # prompts is registered with transformers, and only the original forward looks it up.
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLAttention
        from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLAttention

        own: dict[Any, Any] = {layer: layer.forward for layer in (Qwen2_5_VLAttention, Qwen2VLAttention)}
        if any(not forward.__module__.startswith("transformers.") for forward in own.values()):
            raise IncompatibleVersion(
                "verl has replaced the attention of Qwen2-VL before critic-r1 was loaded; "
                "name recipe.critic_r1.images.engine in actor_rollout_ref.model.external_lib"
            )

        def qwen2_vl_attn_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            if name not in kwargs:
                return original(self, *args, **kwargs)
            return next(forward for layer, forward in own.items() if isinstance(self, layer))(self, *args, **kwargs)

        return qwen2_vl_attn_forward

    replace("verl.models.transformers.qwen2_vl:qwen2_vl_attn_forward", make)


def poll(buffer: Any, seconds: float, before: Callable[[], None]) -> None:
    """Let a replay buffer of verl wait ``seconds`` between polls, and call ``before`` each time."""
    # verl polls for finished rollouts every two seconds, with no setting for it, and polls forever when the process
    # that makes them is gone. A demo step takes not much longer than two seconds.
    name = "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._wait_for_next_poll"
    check_sources({name: PATCHED[name]}, REMEDY)
    wait = buffer._wait_for_next_poll

    def wait_while_alive(*args: Any, **kwargs: Any) -> Any:
        before()
        return wait(*args, **kwargs)

    buffer.poll_interval = seconds
    buffer._wait_for_next_poll = wait_while_alive
