"""Frames of a video as images: n frames, one from the middle of each of n equal parts of the video.

Decoded by PyAV, which the pinned environments have. The same file and version of PyAV give the same frames.
"""

import io
from typing import Any

from data_prep.reading.image_files import BadImage
from data_prep.reading.images import MAX_PIXELS

MOST_FRAMES = 64
"""Frames of one video; more do not fit into a prompt."""

LONGEST = 200_000
"""Frames in a video file: an hour at 50 frames per second."""

QUALITY = 95
"""JPEG quality of a frame."""


def frames_of(data: bytes, n: int) -> list[bytes]:
    """`n` frames of a video as JPEG files, in order; all frames when there are fewer.

    Raises:
        BadImage: `video-unreadable`, `video-too-long`, `video-rotated` for one that players rotate, `image-too-large`.
        ModuleNotFoundError: PyAV is not installed.
    """
    import av

    opened: Any = av.open
    try:
        with opened(io.BytesIO(data)) as container:
            total = sum(packet.size > 0 for packet in container.demux(_stream(container)))
        if not 0 < total <= LONGEST:
            reason = "video-too-long" if total else "video-unreadable"
            raise BadImage(reason, f"the video has {total} frames; 1 to {LONGEST:,} are supported")
        wanted = {(2 * i + 1) * total // (2 * n) for i in range(n)}
        found = []
        with opened(io.BytesIO(data)) as container:
            for place, frame in enumerate(container.decode(_stream(container))):
                if place in wanted:
                    found.append(_as_jpeg(frame))
                if len(found) == len(wanted):
                    break
    except BadImage:
        raise
    except Exception as error:  # FFmpeg's errors have many classes, and hostile files reach all of them
        raise BadImage("video-unreadable", f"the video cannot be decoded ({type(error).__name__}: {error})") from error
    if not found:
        raise BadImage("video-unreadable", "no frame of the video can be decoded")
    return found


def _stream(container: Any) -> Any:
    if not container.streams.video:
        raise BadImage("video-unreadable", "the file has no video stream")
    stream = container.streams.video[0]
    if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
        raise BadImage("image-too-large", f"a frame of the video has more than {MAX_PIXELS:,} pixels")
    return stream


def _as_jpeg(frame: Any) -> bytes:
    if frame.width * frame.height > MAX_PIXELS:
        raise BadImage("image-too-large", f"a frame of the video has more than {MAX_PIXELS:,} pixels")
    if frame.rotation:
        raise BadImage("video-rotated", f"players rotate this video by {frame.rotation} degrees: write it upright")
    stream = io.BytesIO()
    frame.to_image().save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()
