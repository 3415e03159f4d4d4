"""Counts what each process of a training run does with pictures; loaded by verl in all of them.

`benchmarks.pictures` names this module in ``VERL_USE_EXTERNAL_MODULES`` and a folder in `FOLDER`. Every call of an
image processor and every message to or from TransferQueue is a line of ``FOLDER/PID.jsonl``:
``{"at": seconds since the epoch, "what": "processor" | "sent" | "received", "amount": pictures or bytes, "cpu": s}``.
"""

import functools
import json
import os
import time
from pathlib import Path
from typing import Any

FOLDER = "CRITIC_R1_PICTURE_PROBE"


def _write(what: str, amount: int, cpu: float = 0.0) -> None:
    line = {"at": time.time(), "what": what, "amount": amount, "cpu": cpu}
    with (Path(os.environ[FOLDER]) / f"{os.getpid()}.jsonl").open("a") as lines:
        lines.write(json.dumps(line) + "\n")


def _count(images: Any) -> int:
    return sum(_count(image) for image in images) if isinstance(images, list | tuple) else 1


def _watch_image_processors() -> None:
    from transformers.image_processing_utils import BaseImageProcessor

    original = BaseImageProcessor.__call__

    @functools.wraps(original)
    def call(self: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        begun = time.thread_time()
        try:
            return original(self, images, *args, **kwargs)
        finally:
            _write("processor", _count(images), time.thread_time() - begun)

    BaseImageProcessor.__call__ = call


def _watch_transfer_queue() -> None:
    from transfer_queue.utils.zmq_utils import ZMQMessage, frame_nbytes

    serialize, deserialize = ZMQMessage.serialize, ZMQMessage.deserialize.__func__

    @functools.wraps(serialize)
    def sent(self: Any) -> Any:
        frames = serialize(self)
        _write("sent", sum(frame_nbytes(frame) for frame in frames))
        return frames

    @functools.wraps(deserialize)
    def received(cls: Any, frames: Any) -> Any:
        _write("received", sum(frame_nbytes(frame) for frame in frames))
        return deserialize(cls, frames)

    ZMQMessage.serialize = sent
    ZMQMessage.deserialize = classmethod(received)


if FOLDER in os.environ:
    _watch_image_processors()
    _watch_transfer_queue()
