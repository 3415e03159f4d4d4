"""Messages of the training data set: bytes in them, and images opened by the one rule."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import EpsImagePlugin, Image

from data_prep.reading.images import BadImage, open_image
from recipe.critic_r1.images.dataset import EncodedImageDataset, bare, image_items, with_images
from recipe.critic_r1.images.encoded import travels_encoded
from recipe.critic_r1.rollout.shared_image import SharedImage
from tests.data_prep import odd_images as odd
from tests.images.test_encoded import item, photo


def dataset_in(folder: Path, **config: Any) -> EncodedImageDataset:
    dataset = object.__new__(EncodedImageDataset)
    dataset.image_key, dataset.video_key, dataset.audio_key, dataset.processor = "images", "videos", "audios", object()
    dataset.original_data_files, dataset.config = [str(folder / "train.parquet")], config
    return dataset


def test_messages_hold_bytes_and_no_decoded_image(tmp_path: Path) -> None:
    """A row as verl reads it from Parquet: embedded, and referenced by path."""
    data, path = photo(64, 48), tmp_path / "b.jpg"
    path.write_bytes(photo(32, 32))
    dataset = dataset_in(tmp_path)
    row = {
        "prompt": [{"role": "user", "content": "<image>\nand <image> show?"}],
        "images": [{"bytes": data, "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}],
    }
    messages = dataset._build_messages(row, "prompt")
    embedded, referenced = image_items(messages)
    assert embedded == {"type": "image", "bytes": data, "path": "a.jpg"}
    assert referenced == {"type": "image", "image": str(path)}
    assert travels_encoded([embedded, referenced], torch.zeros(len(data)))
    assert not travels_encoded([embedded, referenced], torch.zeros(len(data) // 8))
    assert not travels_encoded([{"type": "image", "image": Image.new("RGB", (4, 4))}], torch.zeros(100))
    images, _, _ = EncodedImageDataset._process_multi_modal_info(messages, 14, None)
    assert len(images) == 2
    assert "image" not in embedded  # still not, after it was read
    assert row["prompt"] == [{"role": "user", "content": "<image>\nand <image> show?"}]
    assert len(pickle.dumps(with_images(messages, bare))) < 400
    assert with_images(messages, bare)[0]["content"][1]["text"] == "\nand "


@pytest.mark.parametrize("data", [photo(8, 8), *odd.TRANSPARENT.values(), *odd.DEEP.values(), odd.photo(6)])
def test_training_opens_an_image_as_every_other_part_does(data: bytes) -> None:
    images, _, _ = EncodedImageDataset._process_multi_modal_info([{"role": "user", "content": [item(data)]}], 14, None)
    side = 28 * round(images[0].width / 28), 28 * round(images[0].height / 28)
    assert images[0].size == side
    assert images[0].tobytes() == open_image(data).resize(side).tobytes()
    assert SharedImage.of(images[0]).tobytes() == images[0].tobytes()


def test_verl_never_opens_what_is_not_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: pytest.fail("ran Ghostscript"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    row = {"prompt": [{"role": "user", "content": "<image>"}], "images": [{"bytes": eps, "path": None}]}
    messages = dataset_in(tmp_path)._build_messages(row, "prompt")
    with pytest.raises(BadImage) as found:
        EncodedImageDataset._process_multi_modal_info(messages, 14, None)
    assert found.value.reason == "image-unreadable"


@pytest.mark.parametrize("name", ["{out}/p.jpg", "../out/p.jpg", "link.jpg", "/dev/zero", "http://127.0.0.1:9/p.jpg"])
@pytest.mark.parametrize("as_dict", [False, True])
def test_training_opens_only_files_below_the_data_or_the_given_roots(name: str, as_dict: bool, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for folder in (data, out):
        folder.mkdir()
    (out / "p.jpg").write_bytes(photo(8, 8))
    (data / "link.jpg").symlink_to(out / "p.jpg")
    name = name.format(out=out)
    image = {"bytes": None, "path": name} if as_dict else name
    row = {"prompt": [{"role": "user", "content": "<image>"}], "images": [image]}
    with pytest.raises(BadImage) as found:
        dataset_in(data)._build_messages(row, "prompt")
    assert found.value.reason == "image-outside"
    if name.endswith("p.jpg") and not name.startswith(("..", "http")):
        messages = dataset_in(data, image_roots=[str(out)])._build_messages(row, "prompt")
        assert image_items(messages) == [{"type": "image", "image": str(out / "p.jpg")}]


@pytest.mark.parametrize("name", ["p.jpg", "http://127.0.0.1:9/p.jpg", "file:///etc/passwd", "data:image/png;base64,"])
def test_an_item_that_no_data_set_checked_is_not_opened(name: str) -> None:
    with pytest.raises(BadImage):
        EncodedImageDataset._process_multi_modal_info(
            [{"role": "user", "content": [{"type": "image", "image": name}]}], 14, None
        )


BAD = {
    "not an image": b"GIF89a, or so it says",
    "no bytes": b"",
    "cut off": photo(64, 48)[:-200],
    "a name that leads out": "../p.jpg",
    "a name without a file": "nothing.jpg",
}


class Rows(list[dict[str, Any]]):
    """Gives every row anew, as a data set on disk does."""

    def __getitem__(self, place: Any) -> Any:
        return copy.deepcopy(super().__getitem__(place))


def rows_of(folder: Path, images: list[Any]) -> EncodedImageDataset:
    dataset = dataset_in(folder)
    dataset.prompt_key, dataset.need_tools_kwargs = "prompt", False
    dataset.dataframe = Rows(
        {
            "prompt": [{"role": "user", "content": "<image>"}],
            "images": [{"bytes": image, "path": None} if isinstance(image, bytes) else image],
            "extra_info": {"index": place, "pair_id": f"pair-{place}"},
        }
        for place, image in enumerate(images)
    )
    return dataset


@pytest.mark.parametrize("name", BAD)
def test_a_row_with_a_bad_image_costs_itself(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = rows_of(tmp_path, [photo(8, 8), photo(9, 9), BAD[name]])
    assert [dataset[place]["index"] for place in (0, 1, 2, 2)] == [0, 1, 0, 0]
    assert dataset.bad_rows == {2}
    with pytest.raises(IndexError):
        dataset[len(dataset)]  # what ends a loop over the rows
    (message,) = caplog.messages
    assert "train.parquet: row 2 (pair pair-2) is left out" in message


def test_data_without_any_image_that_opens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="critic-r1 validate"):
        rows_of(tmp_path, [b"x", b"y"])[1]
