"""An image for all rollouts of a prompt: the same pixels, found by vLLM without reading them."""

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipe.critic_r1.rollout.shared_image import SharedImage


def make_image(seed: int, mode: str = "RGB", size: tuple[int, int] = (37, 21)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def travelled(shared: SharedImage) -> tuple[SharedImage, list[pickle.PickleBuffer]]:
    """As Ray sends it: pixels beside the pickle."""
    buffers: list[pickle.PickleBuffer] = []
    text = pickle.dumps(shared, protocol=5, buffer_callback=buffers.append)
    assert len(text) < 500
    return pickle.loads(text, buffers=buffers), buffers


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_it_is_the_image_wherever_it_went(mode: str) -> None:
    original = make_image(0, mode)
    shared = SharedImage.of(original)
    for found in (
        shared,
        travelled(shared)[0],
        travelled(travelled(shared)[0])[0],
        pickle.loads(pickle.dumps(shared, protocol=4)),
        copy.deepcopy(SharedImage.of(original)),
    ):
        assert (found.mode, found.size) == (original.mode, original.size)
        assert np.array_equal(np.asarray(found), np.asarray(original))
        assert found.convert("RGB").tobytes() == original.convert("RGB").tobytes()
        assert found.resize((8, 8)).tobytes() == original.resize((8, 8)).tobytes()
    assert travelled(shared)[0].tobytes() == original.tobytes()  # after its pixels were read


def test_pixels_are_not_copied_before_they_are_read() -> None:
    found, (buffer,) = travelled(SharedImage.of(make_image(0)))
    assert np.shares_memory(np.frombuffer(found._pixels, np.uint8), np.frombuffer(buffer.raw(), np.uint8))
    assert found._im is None
    found.load()
    assert found._im is not None


def test_a_palette_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mode P: .*convert it to RGB"):
        SharedImage.of(make_image(0).convert("P"))


def test_the_processor_makes_the_same_of_it(tiny_model: Path) -> None:
    from verl.utils import hf_processor

    processor = hf_processor(str(tiny_model)).image_processor
    original = make_image(0, size=(84, 56))
    ours = processor(images=[travelled(SharedImage.of(original))[0]], return_tensors="pt")
    theirs = processor(images=[original], return_tensors="pt")
    assert (ours["pixel_values"] == theirs["pixel_values"]).all()
    assert (ours["image_grid_thw"] == theirs["image_grid_thw"]).all()


def test_vllm_knows_it_by_its_content_and_leaves_the_pixels_alone() -> None:
    from vllm.multimodal.hasher import MultiModalHasher

    def hashed(found: SharedImage) -> str:
        value: str = MultiModalHasher.hash_kwargs(image=found)
        assert found._im is None
        return value

    stream = io.BytesIO()
    make_image(0).save(stream, "PNG")
    same = [SharedImage.of(make_image(0)), travelled(SharedImage.of(make_image(0)))[0]]
    same.append(SharedImage.of(Image.open(stream)))
    others = [make_image(1), make_image(0, "L"), make_image(0).transpose(Image.Transpose.ROTATE_90)]
    assert len({hashed(found) for found in same}) == 1
    assert len({hashed(found) for found in [same[0], *map(SharedImage.of, others)]}) == 4
