"""The vision towers of the Qwen-VL family see each image once; what comes out, and its gradients, stay the same."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from recipe.critic_r1.images.encoded import ImageInputs, PixelSettings
from recipe.critic_r1.images.vision_dedup import GRID, only_pixels_apart, see_once, without_repeats

GRIDS = {"a": [[1, 4, 4]], "b": [[1, 8, 4], [1, 4, 4]], "c": [[1, 4, 12]]}
"""Images of three prompts, in patches."""


def shown(name: str) -> ImageInputs:
    return ImageInputs({GRID: torch.tensor(GRIDS[name])}, [{"type": "image", "bytes": name.encode()}], SETTINGS)


SETTINGS = PixelSettings("nowhere")
TRAVELLED = {"pixel_values": 0, GRID: torch.ones(2, 3)}

CASES: dict[str, tuple[list[Any], list[bool], list[int] | None]] = {
    # rollouts; which of them bring pixels; the place of each of their images
    "all different": (["a", "b", "c"], [True, True, True], None),
    "one prompt": (["a", "a", "a"], [True, False, False], [0, 0, 0]),
    "two images a prompt": (["b", "b"], [True, False], [0, 1, 0, 1]),
    "not side by side": (["a", "b", "a", "c", "b"], [True, True, False, True, False], [0, 1, 2, 0, 3, 1, 2]),
    "text between": (["a", None, {}, "a"], [True, False, False, False], [0, 0]),
    "text only": ([None, {}], [False, False], None),
    "pixels that travelled": (
        [{"pixel_values": 0, GRID: torch.ones(2, 3)}, "a", "a"],
        [True, True, False],
        [0, 1, 2, 2],
    ),
    "nothing": ([], [], None),
}


@pytest.mark.parametrize(("rollouts", "pixels", "places"), CASES.values(), ids=CASES.keys())
def test_a_repeated_image_comes_without_pixels(
    rollouts: list[Any], pixels: list[bool], places: list[int] | None
) -> None:
    inputs = [shown(item) if isinstance(item, str) else item for item in rollouts]
    kept, found = without_repeats(inputs)
    assert found == places
    assert ["pixel_values" in set((item or {}).keys()) for item in kept] == pixels
    # The language model's side is told of all images.
    for before, after in zip(inputs, kept, strict=True):
        assert (before is None) == (after is None)
        assert not before or torch.equal(before[GRID], after[GRID])


@pytest.mark.parametrize(
    ("rollouts", "alone"),
    [
        ([None, "a", {}], 1),  # made of a file
        ([{"pixel_values": torch.ones(4, 2), GRID: torch.ones(1, 3)}, None], 0),  # travelled as pixels
        (["a", "b"], None),
        ([None, {}], None),
    ],
)
def test_the_only_pixels_of_a_micro_batch_are_not_copied(
    rollouts: list[Any], alone: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = torch.zeros(4, 2)
    monkeypatch.setattr(ImageInputs, "__getitem__", lambda self, name: made if name == "pixel_values" else self.small)
    inputs = [shown(item) if isinstance(item, str) else item for item in rollouts]
    rest, pixels = only_pixels_apart(inputs)
    if alone is None:
        assert pixels is None
        assert rest == inputs
        return
    assert pixels is (made if isinstance(rollouts[alone], str) else rollouts[alone]["pixel_values"])
    assert not any("pixel_values" in (item or {}) for item in rest)
    assert GRID in rest[alone]
    assert [item for i, item in enumerate(rest) if i != alone] == [item for i, item in enumerate(inputs) if i != alone]


SMALL = {"depth": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
TOWERS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {**SMALL, "embed_dim": 32, "hidden_size": 16, "mlp_ratio": 2},
    "qwen2_5_vl": {**SMALL, "hidden_size": 32, "intermediate_size": 32, "out_hidden_size": 16, "window_size": 56,
                   "fullatt_block_indexes": [1]},
    "qwen3_vl": {**SMALL, "hidden_size": 32, "intermediate_size": 32, "out_hidden_size": 16,
                 "deepstack_visual_indexes": [0], "num_position_embeddings": 64},
}  # fmt: skip


def model(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": 50}  # fmt: skip
    config = AutoConfig.for_model(family, text_config=text, vision_config=TOWERS[family])
    return AutoModelForImageTextToText.from_config(config).eval()


def features(whole: PreTrainedModel, pixels: torch.Tensor, grid: torch.Tensor) -> list[torch.Tensor]:
    """All that verl takes from a tower: merged features, and those of Qwen3-VL's inner layers."""
    output = whole.model.visual(pixels, grid_thw=grid)
    return [output.pooler_output, *(getattr(output, "deepstack_features", None) or [])]


@pytest.mark.parametrize("family", TOWERS)
def test_features_and_gradients_are_those_of_the_repeated_pixels(family: str) -> None:
    whole, places = model(family), None
    see_once(whole, lambda: places)
    rollouts = ["a", "b", "a", "c", "b", "b"]
    patches = {name: [torch.randn(sum(h * w for _, h, w in grid), 1176)] for name, grid in GRIDS.items()}
    grid = torch.tensor([row for name in rollouts for row in GRIDS[name]])

    def outcome(pixels: torch.Tensor) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        whole.zero_grad()
        found = features(whole, pixels, grid)
        # Each rollout looks at its image in its own way.
        torch.autograd.backward([(part * torch.linspace(-1, 2, part.numel()).view_as(part)).sum() for part in found])
        return found, {name: p.grad.clone() for name, p in whole.model.visual.named_parameters() if p.grad is not None}

    expected, wanted = outcome(torch.cat([patches[name][0] for name in rollouts]))
    places = without_repeats([shown(name) for name in rollouts])[1]
    found, gradients = outcome(torch.cat([patches[name][0] for name in ("a", "b", "c")]))
    assert len(found) == (2 if family == "qwen3_vl" else 1)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def test_a_tower_that_is_shown_other_images_says_so() -> None:
    whole = model("qwen2_vl")
    see_once(whole, lambda: [0, 0, 1])
    with pytest.raises(RuntimeError, match="shown 1 images; this micro-batch has 3"):
        features(whole, torch.randn(16, 1176), torch.tensor([[1, 4, 4]]))
