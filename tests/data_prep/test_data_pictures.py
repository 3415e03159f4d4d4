"""Pictures that a header alone makes look good."""

import io
import struct
import zipfile
import zlib

import pytest
from PIL import Image, PngImagePlugin

from data_prep.images import BadPicture, check_whole, read_header
from data_prep.picture_store import PictureStore
from tests.data_prep.made_pictures import picture


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(depth: int = 8, colour: int = 2, pixels: bytes | None = None, before: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, depth, colour, 0, 0, 0))
    body = zlib.compress(b"\0" * 13 * 4) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg_without_scan() -> bytes:
    whole = picture(0, form="JPEG")
    return whole[: whole.index(b"\xff\xda")] + b"\xff\xd9"


HOLLOW = {
    "PNG: packed text that grows without end": png(before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))),
    "PNG: pixels that are not packed": png(pixels=b"not zlib at all"),
    "PNG: a depth that its colour does not have": png(depth=3, colour=5),
    "PNG: no pixels": png().replace(chunk(b"IDAT", zlib.compress(b"\0" * 13 * 4)), b""),
    "JPEG: no scan": jpeg_without_scan(),
}


@pytest.mark.parametrize("data", HOLLOW.values(), ids=HOLLOW.keys())
def test_a_hollow_picture_is_found(data: bytes) -> None:
    with pytest.raises(BadPicture) as found:
        check_whole(data, read_header(data))
    assert found.value.reason in ("picture-truncated", "picture-unreadable")


def with_text(compressed: bool) -> bytes:
    info, stream = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("comment", "a picture", zip=compressed)
    Image.new("RGB", (4, 4), "red").save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


@pytest.mark.parametrize("data", [png(), picture(0), picture(0, form="PNG"), with_text(False), with_text(True)])
def test_a_good_one_passes(data: bytes) -> None:
    check_whole(data, read_header(data))


@pytest.mark.parametrize("seed", range(20))
def test_plain_files_are_known_without_pillow(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [picture(seed, (8 + 13 * seed, 9 + 7 * seed), form) for form in ("JPEG", "PNG")]

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image, "open", never)
    for data in files:
        header = read_header(data)
        assert (header.width, header.height) == (8 + 13 * seed, 9 + 7 * seed)
        check_whole(data, header)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_entry_of_a_zip_is_a_bad_picture(method: int, tmp_path) -> None:
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("1.png", picture(1, (64, 64), "PNG"))
        archive.writestr("2.jpg", picture(2))
    raw = bytearray(path.read_bytes())
    raw[60:900] = b"\x55" * 840
    path.write_bytes(raw)
    store = PictureStore([str(path)])
    with pytest.raises(BadPicture, match=r"1\.png is damaged in .*p\.zip") as found:
        store.load("1.png", ".")
    assert found.value.reason == "picture-truncated"


def test_a_cut_zip_is_named_as_such_and_opened_once(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cut.zip"
    path.write_bytes(b"PK\x03\x04 and no more")
    opened = []
    original = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda name: opened.append(name) or original(name))
    store = PictureStore([str(path)])
    for _ in range(3):
        with pytest.raises(BadPicture, match=r"cut\.zip cannot be opened as a zip: fetch it again"):
            store.load("1.jpg", ".")
    assert len(opened) == 1


def test_a_name_from_the_root_says_how_it_is_read() -> None:
    with pytest.raises(BadPicture, match="--image-root / for names"):
        PictureStore().load("/data/1.jpg", ".")
