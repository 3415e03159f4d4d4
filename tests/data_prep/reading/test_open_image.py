"""One rule for opening images, and one for their names."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from data_prep.reading import image_files, images
from data_prep.reading.image_files import BadImage, allowed_path, read_file
from data_prep.reading.images import open_image, read_header, upright_size
from tests.data_prep.made_images import make_image
from tests.data_prep.odd_images import BLUE, DARK, DEEP, RED, TRANSPARENT, WHITE, photo, saved

FORMS = ("JPEG", "PNG", "WEBP", "TIFF")
# What is in the upper left and the lower right corner of an upright photo.
CORNERS = {
    1: (RED, BLUE), 2: (BLUE, RED), 3: (BLUE, RED), 4: (RED, BLUE),
    5: (RED, BLUE), 6: (RED, BLUE), 7: (BLUE, RED), 8: (BLUE, RED),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("orientation", CORNERS)
def test_a_photo_is_turned_upright(orientation: int, form: str) -> None:
    data = photo(orientation, form)
    image = open_image(data)
    assert image.size == ((120, 60) if orientation < 5 else (60, 120)) == upright_size(data)
    corners = image.getpixel((0, 0)), image.getpixel((image.width - 1, image.height - 1))
    assert np.abs(np.array(corners) - CORNERS[orientation]).max() <= 2  # JPEG
    assert not image.getexif()  # nothing turns it a second time
    assert not image.info
    # Pillow itself turns a TIFF.
    assert read_header(data).direct == (orientation == 1 or form == "TIFF")


def test_orientation_in_other_places_of_a_png() -> None:
    image = Image.new("RGB", (8, 4))
    xmp, late = PngImagePlugin.PngInfo(), saved(image)
    xmp.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    exif = photo(6, "PNG", (8, 4))
    chunk = exif[exif.index(b"eXIf") - 4 : exif.index(b"IDAT") - 4]
    late = late[:-12] + chunk + late[-12:]
    for data in (saved(image, pnginfo=xmp), late):
        assert open_image(data).size == upright_size(data) == (4, 8)


@pytest.mark.parametrize("data", TRANSPARENT.values(), ids=TRANSPARENT)
def test_transparency_is_white(data: bytes) -> None:
    image = open_image(data)
    assert (image.getpixel((2, 2)), image.getpixel((30, 30))) == (WHITE, DARK)
    assert not read_header(data).direct


@pytest.mark.parametrize("data", DEEP.values(), ids=DEEP)
def test_deep_samples_are_scaled(data: bytes) -> None:
    seen = np.asarray(open_image(data))[..., 0].ravel().astype(int)
    assert np.abs(seen - np.linspace(0, 255, 64 * 64)).max() <= 1
    assert not read_header(data).direct


@pytest.mark.parametrize(
    "data",
    [
        make_image(0),
        make_image(0, form="PNG"),
        saved(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG"),
        saved(Image.new("L", (4, 4), 7), "JPEG"),
        saved(Image.new("P", (4, 4)), "GIF"),
        saved(Image.new("RGB", (4, 4), "red"), "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")]),
        saved(Image.new("RGB", (4, 4), "red"), "BMP"),
        saved(Image.new("1", (4, 4), 1), "TIFF"),
        photo(1),
    ],
)
def test_of_an_ordinary_image_nothing_is_changed(data: bytes) -> None:
    assert read_header(data).direct
    with Image.open(io.BytesIO(data)) as plain:
        assert open_image(data).tobytes() == plain.convert("RGB").tobytes()
        assert upright_size(data) == plain.size


def test_broken_metadata_does_not_break_an_image() -> None:
    whole = photo(6)
    at = whole.index(b"Exif\0\0") + 6
    data = whole[:at] + b"MM\0*\xff\xff\xff\xf0" + whole[at + 8 :]
    assert open_image(data).size == upright_size(data) == (120, 60)


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels of it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def many_scans() -> bytes:
    """A progressive JPEG whose last scan is there 2,000 times: 50 kB that take half a minute to decode."""
    data = saved(Image.new("RGB", (2_000, 2_000)), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * 2_000 + data[-2:]


JPEG = make_image(0, (64, 64))
TEXTS = (b"\0\0\0\2tEXtx\0" + struct.pack(">I", zlib.crc32(b"tEXtx\0"))) * (images.MAX_PARTS + 1)

REFUSED = {
    "many scans": (many_scans(), "image-too-large"),
    "many scans after a fill byte": (many_scans().replace(b"\xff\xda", b"\xff\xff\xda", 1), "image-too-large"),
    "many segments": (JPEG[:2] + b"\xff\xe2\0\2" * (images.MAX_PARTS + 1) + JPEG[2:], "image-unreadable"),
    "many chunks": (make_image(0, (64, 64), "PNG")[:33] + TEXTS, "image-unreadable"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n", "image-unreadable"),
    "PPM": (b"P6 1 1 255 abc", "image-unreadable"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image-unreadable"),
    "HTML": (b"<!doctype html><title>Not found</title>", "image-unreadable"),
    "ICNS": (saved(Image.new("RGB", (16, 16)), "ICNS"), "image-unreadable"),
    "TGA": (saved(Image.new("RGB", (16, 16)), "TGA"), "image-unreadable"),
    "nothing": (b"", "image-empty"),
    "a bomb": (png_of(30_000, 30_000), "image-too-large"),
    "just above the bound": (png_of(images.MAX_PIXELS, 2), "image-too-large"),
    "no width": (png_of(0, 4), "image-unreadable"),
    "cut": (make_image(0, (64, 64), "PNG")[:200], "image-truncated"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(data: bytes, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason != "image-truncated":
        monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
        with pytest.raises(BadImage):
            upright_size(data)
    with pytest.raises(BadImage) as found:
        open_image(data)
    assert found.value.reason == reason


def test_bounds_can_be_lower() -> None:
    data = make_image(0, (64, 64))
    for bounds in ({"max_pixels": 4095}, {"max_bytes": 100}):
        with pytest.raises(BadImage) as found:
            open_image(data, **bounds)
        assert found.value.reason == "image-too-large"
    assert open_image(memoryview(data), max_pixels=4096).size == (64, 64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (tmp_path / "private").mkdir()
    for path in (root / "a.png", root / "in/b c.png", tmp_path / "private/p.png", tmp_path / "root2.png"):
        path.write_bytes(make_image(0))
    (root / "link.png").symlink_to("in/b c.png")
    (root / "out.png").symlink_to("../private/p.png")
    (root / "outside").symlink_to(tmp_path / "private")
    (root / "loop.png").symlink_to("loop.png")
    os.mkfifo(root / "fifo.png")
    (root / "device.png").symlink_to("/dev/zero")
    return root


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", "a.png"),
        ("./a.png", "a.png"),
        ("in/b c.png", "in/b c.png"),
        ("in\\b c.png", "in/b c.png"),
        ("link.png", "in/b c.png"),
        ("{root}/a.png", "a.png"),
        ("file://{root}/in/b c.png", "in/b c.png"),
        ("/a.png", "a.png"),  # below the root, as sets with absolute names are used
        ("{root}/../private/p.png", "image-outside"),
        ("{parent}/private/p.png", "image-outside"),
        ("file://{parent}/private/p.png", "image-outside"),
        ("{parent}/root2.png", "image-outside"),
        ("../private/p.png", "image-outside"),
        ("in/../../private/p.png", "image-outside"),
        ("..\\private\\p.png", "image-outside"),
        ("out.png", "image-outside"),
        ("outside/p.png", "image-outside"),
        ("device.png", "image-outside"),
        ("/dev/zero", "image-outside"),
        ("/etc/passwd", "image-outside"),
        ("http://127.0.0.1:9/a.png", "image-outside"),
        ("https://127.0.0.1/a.png", "image-outside"),
        ("ftp://127.0.0.1/a.png", "image-outside"),
        ("file://localhost/etc/passwd", "image-outside"),
        ("data:image/png;base64,AAAA", "image-outside"),
        ("fifo.png", "image-unreadable"),
        ("in", "image-missing"),
        ("", "image-missing"),
        ("/", "image-outside"),
        ("loop.png", "image-missing"),
        ("a.png/b.png", "image-missing"),
        ("none.png", "image-missing"),
        ("a\0.png", "image-missing"),
        ("x" * 300, "image-missing"),
        ("x" * 9_000, "image-missing"),
        ("\ud800.png", "image-missing"),
    ],
)
def test_a_name_opens_a_regular_file_below_the_root(name: str, expected: str, folder: Path) -> None:
    name = name.format(root=folder, parent=folder.parent)
    if not expected.startswith("image-"):
        assert allowed_path(name, [folder]) == folder / expected
        return
    with pytest.raises(BadImage) as found:
        allowed_path(name, [folder])
    assert found.value.reason == expected


def test_roots_are_searched_in_their_order_and_allow_what_they_hold(folder: Path) -> None:
    private = folder.parent / "private"
    assert allowed_path("p.png", [folder, private]) == private / "p.png"
    assert allowed_path("out.png", [folder, private]) == private / "p.png"
    assert allowed_path(str(private / "p.png"), ["/"]) == private / "p.png"
    with pytest.raises(BadImage) as found:
        allowed_path("/dev/zero", ["/"])
    assert found.value.reason == "image-unreadable"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("fifo.png", "image-unreadable"), ("device.png", "image-unreadable"), ("none.png", "image-missing"),
     ("in", "image-unreadable")],
)  # fmt: skip
def test_only_regular_files_are_read(name: str, reason: str, folder: Path) -> None:
    for read in (read_file, open_image, upright_size):
        with pytest.raises(BadImage) as found:
            read(folder / name)
        assert found.value.reason == reason
    assert open_image(folder / "a.png").mode == "RGB"


def test_a_file_is_bounded_before_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "LARGEST_FILE", 100)
    with pytest.raises(BadImage) as found:
        read_file(folder / "a.png")
    assert found.value.reason == "image-too-large"
