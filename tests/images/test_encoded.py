"""Pixels made in the training worker are those that verl's agent loop would have stored; and nothing large travels."""

import asyncio
import io
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from verl.utils.model import extract_multi_modal_inputs

from recipe.critic_r1.images import encoded as images_inputs
from recipe.critic_r1.images.dataset import EncodedImageDataset
from recipe.critic_r1.images.encoded import ImageInputs, PixelCache, PixelSettings
from recipe.critic_r1.images.token_grid import measuring
from tests.data_prep.made_processors import make_processor


def photo(width: int, height: int, seed: int = 0, form: str = "JPEG", mode: str = "RGB", noise: float = 6) -> bytes:
    """A smooth image with some noise, as a file."""
    draw = np.random.default_rng(seed)
    across, down = np.linspace(0, 3, width), np.linspace(0, 2, height)[:, None]
    waves = [128 + 100 * np.sin(across * (k + 1) + down * draw.uniform(1, 4)) for k in range(3)]
    noisy = np.stack(waves, -1) + draw.normal(0, noise, (height, width, 3))
    stream = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype("uint8")).convert(mode).save(stream, form)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def fresh_cache() -> None:
    images_inputs.pixel_cache.cache_clear()


def item(data: bytes) -> dict[str, Any]:
    return {"type": "image", "bytes": data, "path": "a.jpg"}


SHAPES = {
    "small": [(56, 56)],
    "wide": [(1200, 60)],
    "high": [(40, 900)],
    "odd": [(333, 217)],
    "several": [(56, 56), (640, 200), (99, 301)],
}


@pytest.mark.parametrize(
    ("shapes", "form", "mode"),
    [*((shapes, "JPEG", "RGB") for shapes in SHAPES.values()), *((SHAPES["odd"], "PNG", m) for m in ("RGB", "L", "P"))],
)
def test_pixels_are_those_of_the_processor(
    tiny_model: Path, shapes: list[tuple[int, int]], form: str, mode: str
) -> None:
    from verl.utils import hf_processor

    processor = hf_processor(str(tiny_model))
    items = [item(photo(*shape, seed, form, mode)) for seed, shape in enumerate(shapes)]
    chat = [{"role": "user", "content": [*items, {"type": "text", "text": "Which digit is shown?"}]}]
    images, _, _ = asyncio.run(
        EncodedImageDataset.process_multi_modal_info(chat, image_patch_size=14, config=OmegaConf.create({}))
    )
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    whole = processor(text=[text], images=images, return_tensors="pt")
    small = {"image_grid_thw": whole["image_grid_thw"]}
    made = ImageInputs(small, items, PixelSettings(str(tiny_model)))
    arrived = pickle.loads(pickle.dumps(made))
    assert torch.equal(arrived["pixel_values"], whole["pixel_values"])
    assert arrived["pixel_values"].dtype == whole["pixel_values"].dtype
    assert set(arrived.keys()) == {"pixel_values", "image_grid_thw"}


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_every_family_of_processors_gives_its_own_pixels(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if family == "qwen3_vl":
        import transformers as t

        base = make_processor("qwen2_vl", patch_size=16)
        processor = t.Qwen3VLProcessor(base.image_processor, base.tokenizer, t.Qwen3VLVideoProcessor())
    else:
        processor = make_processor(family)
    monkeypatch.setattr(images_inputs, "_processor", lambda *where: processor)
    items = [item(photo(300, 200, 1)), item(photo(90, 400, 2, "PNG"))]
    patch = getattr(processor.image_processor, "patch_size", 14)
    images, _, _ = EncodedImageDataset._process_multi_modal_info([{"role": "user", "content": items}], patch, None)
    text = f"see {processor.image_token} and {processor.image_token}: which?"
    whole = processor(text=[text], images=images, return_tensors="pt")
    made = ImageInputs({}, items, PixelSettings("any"))
    assert torch.equal(made["pixel_values"], whole["pixel_values"])

    # What the prompt's tokens need can be had without the pixels.
    measured = measuring(processor)(text=[text], images=images, return_tensors="pt")
    assert measured.keys() == whole.keys()
    for name in whole:
        assert (measured[name].shape, measured[name].dtype) == (whole[name].shape, whole[name].dtype), name
        assert name == "pixel_values" or torch.equal(measured[name], whole[name]), name
    assert measured["pixel_values"].is_meta
    assert not processor(text=[text], images=images, return_tensors="pt")["pixel_values"].is_meta


def test_verl_reads_a_mixed_micro_batch(tiny_model: Path) -> None:
    first, second = (ImageInputs({}, [item(photo(64, 64, i))], PixelSettings(str(tiny_model))) for i in range(2))
    found = extract_multi_modal_inputs([first, {}, first, second])
    assert torch.equal(found["pixel_values"], torch.cat([first["pixel_values"]] * 2 + [second["pixel_values"]]))
    assert images_inputs.pixel_cache().take_counts().made == 2


def test_what_travels_is_the_file(tiny_model: Path) -> None:
    data = photo(1024, 768)
    small = {"image_grid_thw": torch.tensor([[1, 54, 74]])}
    as_large = {"min_pixels": 3136, "max_pixels": 1 << 22}
    inputs = ImageInputs(small, [item(data)], PixelSettings(str(tiny_model)), as_large)
    assert len(pickle.dumps(inputs)) < len(data) + 2000
    assert inputs["pixel_values"].shape == (54 * 74, 1176)
    assert inputs["pixel_values"].numel() * 4 > 100 * len(pickle.dumps(inputs))


class Made(ImageInputs):
    """Images whose pixels are a number, and which say when they were made."""

    log: list[int]
    fails = False

    def make_pixels(self) -> torch.Tensor:
        number = int(self.images[0]["bytes"])
        self.log.append(number)
        if self.fails:
            raise ValueError("cut in the middle")
        return torch.full((100,), float(number))


def made(number: int, log: list[int], cache_bytes: int = 10_000, ahead: int = 2) -> Made:
    inputs = Made({}, [item(str(number).encode())], PixelSettings("nowhere", cache_bytes=cache_bytes, ahead=ahead))
    inputs.log = log
    return inputs


def test_the_cache_keeps_what_was_used_last_within_its_bound() -> None:
    cache, log = PixelCache(), list[int]()
    for number in (1, 2, 1, 3, 1, 2):  # 400 bytes each, room for two
        assert cache.get(made(number, log, cache_bytes=900))[0] == number
    assert log == [1, 2, 3, 2]


def test_images_that_a_step_no_longer_shows_are_dropped() -> None:
    cache, log = PixelCache(), list[int]()
    one, two = made(1, log), made(2, log)
    for inputs in (one, two):
        cache.get(inputs)
    cache.expect([two])
    cache.get(one)
    assert log == [1, 2]
    cache.expect([two], only=True)
    assert [int(cache.get(inputs)[0]) for inputs in (two, one)] == [2, 1]
    assert log == [1, 2, 1]


def test_a_process_that_only_stores_rollouts_imports_neither_verl_nor_transformers() -> None:
    found = (
        "import sys, recipe.critic_r1.images.encoded; print({'verl', 'transformers', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", found], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_image_larger_than_the_bound_is_made_and_not_kept() -> None:
    cache, log = PixelCache(), list[int]()
    for _ in range(2):
        assert cache.get(made(7, log, cache_bytes=10))[0] == 7
    assert log == [7, 7]


def test_the_next_images_are_made_while_the_first_is_used() -> None:
    cache, log = PixelCache(), list[int]()
    batch = [made(number, log) for number in (1, 1, 2, 2, 3, 4, 5)]
    cache.expect([{}, *batch])
    assert cache.get(batch[0])[0] == 1
    deadline = time.monotonic() + 5
    while len(log) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert log == [1, 2, 3]  # two ahead, not more
    assert [int(cache.get(inputs)[0]) for inputs in batch] == [1, 1, 2, 2, 3, 4, 5]
    assert sorted(log) == [1, 2, 3, 4, 5]


def test_a_image_that_cannot_be_read_fails_where_it_is_used_and_may_be_tried_again() -> None:
    cache, log = PixelCache(), list[int]()
    broken = made(1, log)
    broken.fails = True
    for _ in range(2):
        with pytest.raises(ValueError, match="cut in the middle"):
            cache.get(broken)
    assert log == [1, 1]


def test_different_content_or_settings_are_different_images() -> None:
    one = ImageInputs({}, [item(b"a")], PixelSettings("m"))
    assert one.key == ImageInputs({}, [item(b"a")], PixelSettings("m", cache_bytes=5)).key
    others = [
        ImageInputs({}, [item(b"b")], PixelSettings("m")),
        ImageInputs({}, [item(b"a"), item(b"a")], PixelSettings("m")),
        ImageInputs({}, [item(b"a") | {"max_pixels": 100}], PixelSettings("m")),
        ImageInputs({}, [item(b"a")], PixelSettings("m"), {"max_pixels": 100}),
        ImageInputs({}, [item(b"a")], PixelSettings("other")),
    ]
    assert len({inputs.key for inputs in [one, *others]}) == 6
