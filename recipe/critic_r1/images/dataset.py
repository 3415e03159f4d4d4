"""verl's data set with images as their files' bytes, opened by our one rule; named in ``data.custom_cls``.

verl 0.9.1 opens every image while it builds a row's messages and leaves the `PIL.Image` beside the bytes it came
from, in `raw_prompt` and in the row's `prompt` alike. When the row is sent to the agent loop, and again when it is
stored for the trainer, pickling decodes that image: 12 MB for an image of 4 megapixels that was 1 MB as a JPEG. Here a
message holds the bytes, and whoever needs the image opens it with `open_image`.

An image that is only named must lie below the folder of a data file or a folder of ``data.image_roots``.
"""

import logging
import os
from pathlib import Path
from typing import Any

from verl.utils.dataset.rl_dataset import RLHFDataset

from data_prep.reading.image_files import BadImage, allowed_path, read_file
from data_prep.reading.images import check_whole, open_image, read_header

logger = logging.getLogger(__name__)

Message = dict[str, Any]

_KEPT = "encoded"
"""Where an image's bytes are while verl builds messages: it opens whatever is called `bytes`, by rules of its own."""


def is_image(item: Any) -> bool:
    """Whether an item of a message's content is an image."""
    return isinstance(item, dict) and item.get("type") == "image"


def image_items(messages: list[Message]) -> list[dict[str, Any]]:
    """The images of a chat, in reading order: ``{"type": "image", "bytes" | "image": ..., ...}``."""
    contents = (message["content"] for message in messages if not isinstance(message["content"], str))
    return [item for content in contents for item in content if is_image(item)]


def with_images(messages: list[Message], change: Any) -> list[Message]:
    """The same messages with ``change(item)`` in the place of each image item; the given ones stay as they are."""
    changed = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [change(item) if is_image(item) else item for item in content]
        changed.append({**message, "content": content})
    return changed


def opened(item: dict[str, Any]) -> dict[str, Any]:
    """An image item with its image opened.

    Raises:
        BadImage: it cannot be opened, or is named by an address.
    """
    rest = {name: value for name, value in item.items() if name not in ("bytes", "path")}
    if item.get("bytes") is not None:
        return {**rest, "image": open_image(item["bytes"])}
    name = item.get("image")
    if not isinstance(name, str):
        return item
    if not os.path.isabs(name):
        raise BadImage("image-outside", f"{name[:200]!r} is not a file that the data set allows to be opened")
    return {**rest, "image": open_image(Path(name))}


def _check(item: dict[str, Any]) -> None:
    """Make sure that an image can be opened; see `check_whole`.

    Raises:
        BadImage: it cannot.
    """
    data = item.get("bytes")
    if data is None and isinstance(item.get("image"), str):
        data = read_file(Path(item["image"]))
    if data is not None:
        check_whole(data, read_header(data))


def bare(item: dict[str, Any]) -> dict[str, Any]:
    """An image item without the image: what the chat template and the logs need of it."""
    return {"type": item["type"]}


def _encoded(item: dict[str, Any]) -> dict[str, Any]:
    return {"bytes" if name == _KEPT else name: value for name, value in item.items()}


class EncodedImageDataset(RLHFDataset):  # type: ignore[misc]
    """`RLHFDataset` whose messages hold images as their file's bytes, or as the path of a file that may be opened.

    A row whose image cannot be opened costs itself, not the run: it is named and counted, and the next row is used.
    """

    def __getitem__(self, item: int) -> dict[str, Any]:
        rows = len(self.dataframe)
        if not -rows <= item < rows:
            raise IndexError(item)  # ends a loop over the rows
        item %= rows
        for place in (*range(item, rows), *range(item)):
            try:
                row: dict[str, Any] = super().__getitem__(place)
                for image in image_items(row["raw_prompt"]):
                    _check(image)
                return row
            except BadImage as error:
                self._name_bad_row(place, error)
        raise BadImage("image-unreadable", "no row of the data has images that can be opened; see `critic-r1 validate`")

    def _name_bad_row(self, place: int, error: BadImage) -> None:
        bad: set[int] = self.__dict__.setdefault("bad_rows", set())
        if place not in bad:
            bad.add(place)
            pair = (self.dataframe[place].get("extra_info") or {}).get("pair_id")
            files = ", ".join(map(os.path.basename, self.original_data_files))
            message = "%s: row %d (pair %s) is left out, and the next one is used: %s; %d such rows so far"
            logger.warning(message, files, place, pair, error, len(bad))

    def _build_messages(self, example: dict[str, Any], key: str) -> list[Message]:
        # verl writes the content it builds into the row's own messages, which travel with the prompt as well.
        copied = {**example, key: [dict(message) for message in example[key]]}
        copied[self.image_key] = [self._kept(image) for image in example.get(self.image_key) or []]
        return with_images(super()._build_messages(copied, key), _encoded)

    def _kept(self, image: Any) -> Any:
        """An image of the row in the form in which it passes verl unopened."""
        if isinstance(image, dict):
            if image.get("bytes") is not None:
                return {_KEPT if name == "bytes" else name: value for name, value in image.items()}
            image = image.get("path") or image.get("image")
        return str(allowed_path(image, self._image_roots())) if isinstance(image, str) else image

    def _image_roots(self) -> list[str]:
        folders = [os.path.dirname(os.path.abspath(os.path.expanduser(file))) for file in self.original_data_files]
        return [*dict.fromkeys(folders), *(self.config.get("image_roots") or [])]

    @classmethod
    def _process_multi_modal_info(cls, messages: list[Message], image_patch_size: int, config: Any) -> Any:
        return super()._process_multi_modal_info(with_images(messages, opened), image_patch_size, config)
