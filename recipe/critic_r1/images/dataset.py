"""verl's data set without decoded images in its messages; named in ``data.custom_cls``.

verl 0.9.1 opens every image while it builds a row's messages and leaves the `PIL.Image` beside the bytes it came
from, in `raw_prompt` and in the row's `prompt` alike. When the row is sent to the agent loop, and again when it is
stored for the trainer, pickling decodes that image: 12 MB for an image of 4 megapixels that was 1 MB as a JPEG. Here a
message holds the bytes, and whoever needs an image opens it then.
"""

from io import BytesIO
from typing import Any

from verl.utils.dataset.rl_dataset import RLHFDataset

Message = dict[str, Any]


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
    """An image item with an image that reads its pixels from the item's bytes when they are asked for."""
    from PIL import Image

    if item.get("bytes") is None:
        return item
    rest = {name: value for name, value in item.items() if name not in ("bytes", "path")}
    return {**rest, "image": Image.open(BytesIO(item["bytes"]))}


def bare(item: dict[str, Any]) -> dict[str, Any]:
    """An image item without the image: what the chat template and the logs need of it."""
    return {"type": item["type"]}


def _encoded(item: dict[str, Any]) -> dict[str, Any]:
    if item.get("bytes") is not None:
        return {name: value for name, value in item.items() if name != "image"}
    return item


def _path_alone(image: Any) -> Any:
    if isinstance(image, dict) and image.get("bytes", b"") is None:
        return image["path"]
    return image


class EncodedImageDataset(RLHFDataset):
    """`RLHFDataset` whose messages hold images as their file's bytes (or path), not as decoded images."""

    def _build_messages(self, example: dict, key: str) -> list[Message]:
        # verl writes the opened images into the row's own messages, which travel with the prompt as well.
        copied = {**example, key: [dict(message) for message in example[key]]}
        # An image that is only referenced has bytes=None beside its path, and verl would try to open the bytes.
        copied[self.image_key] = [_path_alone(image) for image in example.get(self.image_key) or []]
        return with_images(super()._build_messages(copied, key), _encoded)

    @classmethod
    def _process_multi_modal_info(cls, messages: list[Message], image_patch_size: int, config: Any) -> Any:
        return super()._process_multi_modal_info(with_images(messages, opened), image_patch_size, config)
