"""Frames of a video: which ones, in which order, and what is refused by name."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.checks.rows import check_parquet
from data_prep.convert import convert
from data_prep.reading import video
from data_prep.reading.image_files import BadImage
from data_prep.reading.images import open_image
from data_prep.reading.video import frames_of
from data_prep.settings import Settings
from tests.data_prep.made_records import GOOD


def made_video(frames: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A video whose frame n is grey of level 8n."""
    stream = io.BytesIO()
    container: Any = av.open(stream, "w", format="mp4")
    track = container.add_stream("mpeg4", rate=10)
    track.width, track.height, track.pix_fmt = *size, "yuv420p"
    for n in range(frames):
        grey = np.full((size[1], size[0], 3), 8 * n, np.uint8)
        for packet in track.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")):
            container.mux(packet)
    for packet in track.encode():
        container.mux(packet)
    container.close()
    return stream.getvalue()


VIDEO = made_video(30)


@pytest.mark.parametrize(
    ("n", "places"),
    [(1, [15]), (2, [7, 22]), (3, [5, 15, 25]), (30, list(range(30))), (64, list(range(30)))],
)
def test_frames_are_from_the_middle_of_equal_stretches(n: int, places: list[int]) -> None:
    frames = [open_image(frame) for frame in frames_of(VIDEO, n)]
    assert {frame.size for frame in frames} == {(64, 48)}
    assert [np.asarray(frame).mean() / 8 for frame in frames] == pytest.approx(places, abs=0.7)
    assert frames_of(VIDEO, n) == frames_of(VIDEO, n)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lambda: b"", "video-unreadable"),
        (lambda: b"no video at all", "video-unreadable"),
        (lambda: VIDEO[:100], "video-unreadable"),
        (lambda: Path(__file__).read_bytes(), "video-unreadable"),
    ],
)
def test_what_is_no_video_is_named(data: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(BadImage) as problem:
        frames_of(data(), 4)
    assert problem.value.reason == reason


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "LONGEST", 29)
    with pytest.raises(BadImage, match="30 frames"):
        frames_of(VIDEO, 4)
    monkeypatch.setattr(video, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(BadImage, match="pixels"):
        frames_of(VIDEO, 4)
    with pytest.raises(ValueError, match="from 0 to 64"):
        Settings("mm_rlhf", frames=65)


def records() -> list[dict[str, Any]]:
    about = {k: v for k, v in GOOD["mm_rlhf"](1).items() if k != "image"}
    return [{**about, "video": "a.mp4"}, {**about, "video": "absent.mp4"}, {**about, "video": "cut.mp4"}]


@pytest.mark.parametrize("source", ["mm_rlhf", "mm_rlhf_rewardbench", "generic"])
def test_a_row_about_a_video_is_a_row_about_its_frames(source: str, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(VIDEO)
    (tmp_path / "cut.mp4").write_bytes(VIDEO[:200])
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records())))
    without = convert([str(tmp_path / "in.jsonl")], tmp_path / "without", Settings(source))
    assert without["rejected"] == {"video": 3}
    manifest = convert([str(tmp_path / "in.jsonl")], tmp_path / "out", Settings(source, frames=4, orders="both"))
    assert manifest["rejected"] == {"image-missing": 1, "video-unreadable": 1}
    assert check_parquet(tmp_path / "out").ok
    rows = pq.read_table(tmp_path / "out" / "train-00000.parquet").to_pylist()
    for row in rows:
        assert [image["bytes"] for image in row["images"]] == frames_of(VIDEO, 4)
        assert [image["path"] for image in row["images"]] == [f"a.mp4#{n}.jpg" for n in range(4)]
        prompt = row["prompt"][0]["content"]
        assert prompt.startswith("<image><image><image><image>\n")
        assert "Question:\n(The images are frames of a video, in their order.)\nWhat is" in prompt
    assert len({row["extra_info"]["pair_id"] for row in rows}) == 1
