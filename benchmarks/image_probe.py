"""Counts what each process of a training run does with images; loaded by verl in all of them.

`benchmarks.images` names this module in ``VERL_USE_EXTERNAL_MODULES`` and a folder in `FOLDER`. Each call of an image
processor (when it begins and when it ends), each message to or from TransferQueue and each call of a model is a line of
``FOLDER/PID.jsonl``: ``{"at": seconds since the epoch, "what": "begun" | "processor" | "sent" | "received" | "model",
"amount": images or bytes, "cpu": s}``. A model's call is the outermost `torch.nn.Module` called in a thread; in the
training worker the whole forward step (log-probabilities and loss are in it) without the preparation of its inputs; a
backward pass; a step of the optimizer. Its seconds are those of the thread, which computes alone
(``OMP_NUM_THREADS=1``).
"""

import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = "CRITIC_R1_IMAGE_PROBE"


@functools.cache
def _lines(pid: int) -> Any:
    return (Path(os.environ[FOLDER]) / f"{pid}.jsonl").open("a", buffering=1)


def _write(what: str, amount: int, cpu: float = 0.0) -> None:
    line = {"at": time.time(), "what": what, "amount": amount, "cpu": cpu}
    _lines(os.getpid()).write(json.dumps(line) + "\n")


def _count(images: Any) -> int:
    return sum(_count(image) for image in images) if isinstance(images, list | tuple) else 1


def _watch_image_processors() -> None:
    from transformers.image_processing_utils import BaseImageProcessor

    original = BaseImageProcessor.__call__

    @functools.wraps(original)
    def call(self: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        _write("begun", _count(images))
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


def _watch_models() -> None:
    import torch

    within = threading.local()

    def timed(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if getattr(within, "model", False):
                return original(*args, **kwargs)
            _watch_engine()
            within.model, within.apart, begun = True, 0.0, time.thread_time()
            try:
                return original(*args, **kwargs)
            finally:
                within.model = False
                _write("model", 1, time.thread_time() - begun - within.apart)

        return call

    def apart(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            begun = time.thread_time()
            try:
                return original(*args, **kwargs)
            finally:
                within.apart = getattr(within, "apart", 0.0) + time.thread_time() - begun

        return call

    @functools.cache
    def _watch_engine() -> None:
        # When a model is called for the first time verl's engine, if this process has one, is imported.
        if (module := sys.modules.get("verl.workers.engine.fsdp.transformer_impl")) is not None:
            from recipe.critic_r1.images.engine import PreparesImages

            # The outermost on both paths; verl's own is within.
            PreparesImages.prepare_model_inputs = apart(PreparesImages.prepare_model_inputs)  # type: ignore[method-assign]
            module.FSDPEngineWithLMHead.forward_step = timed(module.FSDPEngineWithLMHead.forward_step)

    torch.nn.Module.__call__ = timed(torch.nn.Module.__call__)  # type: ignore[method-assign]
    torch.Tensor.backward = timed(torch.Tensor.backward)  # type: ignore[method-assign]
    torch.optim.AdamW.step = timed(torch.optim.AdamW.step)  # type: ignore[method-assign]


if FOLDER in os.environ:
    _watch_image_processors()
    _watch_transfer_queue()
    _watch_models()
