"""Patches of verl: each changes what it is for, and nothing else."""

import io
from collections.abc import Callable
from importlib.metadata import entry_points
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import verl  # noqa: F401  (loads the plug-in, and with it the patch)
from PIL import Image
from tensordict import TensorDict
from verl.utils import fsdp_utils, tensordict_utils

from data_prep.reading.images import open_image
from recipe.critic_r1 import compat
from recipe.critic_r1.compat import engine_patches


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


class _Model(torch.nn.Module):
    """What FSDP2's choice of units looks at."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(4, 2)
        self.layer = torch.nn.Linear(2, 2)
        self.lm_head = torch.nn.Linear(2, 4)
        self.config = SimpleNamespace(tie_word_embeddings=False)
        if fused:
            self._verl_fused_kernels_backend = "torch"

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.lm_head


@pytest.mark.parametrize("fused", [True, False])
def test_the_head_stays_with_the_root_only_for_fused_kernels(fused: bool) -> None:
    compat.head_with_the_root()
    model = _Model(fused)
    units = fsdp_utils._select_fsdp2_wrap_targets(model, ["Linear"])
    assert any(unit is model.embed_tokens for unit in units)
    assert any(unit is model.layer for unit in units)
    assert any(unit is model.lm_head for unit in units) != fused


class _Units:
    """What `models_in_compute_dtype` looks at of an FSDP1 or FSDP2 model."""

    def __init__(self, fsdp: int, dtype: torch.dtype | None) -> None:
        policy = SimpleNamespace(param_dtype=dtype)
        if fsdp == 1:
            self.mixed_precision = policy
        else:
            self._get_fsdp_state = lambda: SimpleNamespace(_mp_policy=policy)


@pytest.mark.parametrize("fsdp", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, None])
def test_a_checkpoints_model_is_in_the_compute_dtype(
    fsdp: int, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl.utils.checkpoint import fsdp_checkpoint_manager as manager

    weights = {"weight": torch.tensor([1.0, 1e-3]), "steps": torch.tensor([3])}
    monkeypatch.setattr(manager, "get_fsdp_full_state_dict", lambda model, **_: weights)
    compat.models_in_compute_dtype()
    compat.models_in_compute_dtype()  # once is enough
    found = manager.get_fsdp_full_state_dict(_Units(fsdp, dtype), offload_to_cpu=True, rank0_only=True)
    assert found["weight"].dtype == (dtype or torch.float32)
    assert torch.equal(found["weight"], weights["weight"].to(dtype or torch.float32))
    assert torch.equal(found["steps"], weights["steps"])


@pytest.mark.parametrize("name", ["HEAD_FUNCTIONS", "ATTENTION_FUNCTIONS", "FSDP1_FUNCTIONS", "CHECKPOINT_FUNCTIONS"])
def test_a_patch_of_the_engine_is_refused_on_another_source(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = dict.fromkeys(getattr(engine_patches, name), "0" * 12)
    monkeypatch.setattr(engine_patches, name, changed)
    patches: dict[str, Callable[[], object]] = {
        "HEAD_FUNCTIONS": compat.head_with_the_root,
        "ATTENTION_FUNCTIONS": compat.attention_without_flash_attn,
        "CHECKPOINT_FUNCTIONS": compat.models_in_compute_dtype,
        "FSDP1_FUNCTIONS": lambda: compat.fsdp1_on_cpu().__enter__(),
    }
    with pytest.raises(compat.IncompatibleVersion, match=next(iter(changed)).partition(":")[2]):
        patches[name]()


def grey_16_bit() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, 256).reshape(16, 16).astype("uint16"))


def with_a_transparent_colour() -> Image.Image:
    image = Image.new("RGB", (16, 16), "blue")
    image.info["transparency"] = (0, 0, 255)
    return image


@pytest.mark.parametrize("draw", [grey_16_bit, with_a_transparent_colour])
def test_vllm_shows_an_image_as_training_does(draw: Callable[[], Image.Image]) -> None:
    from vllm.multimodal.media.image import ImageMediaIO  # `import verl` above registered the hook

    image = draw()
    file = io.BytesIO()
    image.save(file, "PNG", **{key: value for key, value in image.info.items() if key == "transparency"})
    served = ImageMediaIO().load_bytes(file.getvalue())
    assert served.media == open_image(file.getvalue())
    assert served.original_bytes == file.getvalue()
    with pytest.raises(ValueError, match="Failed to load image"):
        ImageMediaIO().load_bytes(b"not an image")


def test_vllm_finds_the_patch_itself() -> None:
    (found,) = (one for one in entry_points(group="vllm.general_plugins") if one.name == "critic_r1")
    assert found.load() is compat.serve_images_as_trained
