"""Images that a header alone makes look good."""

import io
import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin

from data_prep.reading.images import BadImage, check_whole, read_header
from tests.data_prep.made_images import make_image


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(depth: int = 8, colour: int = 2, pixels: bytes | None = None, before: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, depth, colour, 0, 0, 0))
    body = zlib.compress(b"\0" * 13 * 4) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg_without_scan() -> bytes:
    whole = make_image(0, form="JPEG")
    return whole[: whole.index(b"\xff\xda")] + b"\xff\xd9"


HOLLOW = {
    "PNG: packed text that grows without end": png(before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))),
    "PNG: pixels that are not packed": png(pixels=b"not zlib at all"),
    "PNG: a depth that its colour does not have": png(depth=3, colour=5),
    "PNG: no pixels": png().replace(chunk(b"IDAT", zlib.compress(b"\0" * 13 * 4)), b""),
    "JPEG: no scan": jpeg_without_scan(),
}


@pytest.mark.parametrize("data", HOLLOW.values(), ids=HOLLOW.keys())
def test_a_hollow_image_is_found(data: bytes) -> None:
    with pytest.raises(BadImage) as found:
        check_whole(data, read_header(data))
    assert found.value.reason in ("image-truncated", "image-unreadable")


def with_text(compressed: bool) -> bytes:
    info, stream = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("comment", "an image", zip=compressed)
    Image.new("RGB", (4, 4), "red").save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


@pytest.mark.parametrize("data", [png(), make_image(0), make_image(0, form="PNG"), with_text(False), with_text(True)])
def test_a_good_one_passes(data: bytes) -> None:
    check_whole(data, read_header(data))


@pytest.mark.parametrize("seed", range(20))
def test_plain_files_are_known_without_pillow(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [make_image(seed, (8 + 13 * seed, 9 + 7 * seed), form) for form in ("JPEG", "PNG")]

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image, "open", never)
    for data in files:
        header = read_header(data)
        assert (header.width, header.height) == (8 + 13 * seed, 9 + 7 * seed)
        check_whole(data, header)
