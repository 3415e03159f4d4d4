"""Images that a header alone makes look good."""

import io
import struct
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image, PngImagePlugin

from data_prep.convert import convert
from data_prep.reading import image_store
from data_prep.reading.image_store import ImageStore
from data_prep.reading.images import BadImage, check_whole, read_header
from data_prep.reading.inputs import InputError
from data_prep.settings import Settings
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


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_entry_of_a_zip_is_a_bad_image(method: int, tmp_path) -> None:
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("1.png", make_image(1, (64, 64), "PNG"))
        archive.writestr("2.jpg", make_image(2))
    raw = bytearray(path.read_bytes())
    raw[60:900] = b"\x55" * 840
    path.write_bytes(raw)
    store = ImageStore([str(path)])
    with pytest.raises(BadImage, match=r"1\.png is damaged in .*p\.zip") as found:
        store.load("1.png", ".")
    assert found.value.reason == "image-truncated"


def test_a_cut_zip_is_named_as_such_and_opened_once(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cut.zip"
    path.write_bytes(b"PK\x03\x04 and no more")
    opened = []
    original = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda name: opened.append(name) or original(name))
    store = ImageStore([str(path)])
    for _ in range(3):
        with pytest.raises(BadImage, match=r"cut\.zip cannot be opened as a zip: fetch it again"):
            store.load("1.jpg", ".")
    assert len(opened) == 1


def test_a_name_from_the_root_says_how_it_is_read() -> None:
    with pytest.raises(BadImage, match="--image-root / for names"):
        ImageStore().load("/data/1.jpg", ".")


class Failing(MemoryFileSystem):
    """A remote place whose first `failures` answers are errors."""

    protocol = "failing"
    cachable = False
    failures = 0
    error: type[Exception] = ConnectionResetError

    def _open(self, path: str, *args: object, **kwargs: object) -> object:
        if Failing.failures:
            Failing.failures -= 1
            raise Failing.error("no answer")
        return super()._open(path, *args, **kwargs)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> type[Failing]:
    fsspec.register_implementation("failing", Failing, clobber=True)
    monkeypatch.setattr(image_store, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(Failing, "failures", 0)
    monkeypatch.setattr(Failing, "error", ConnectionResetError)
    with fsspec.open("failing://images/a.png", "wb") as stream:
        stream.write(make_image(0))
    return Failing


def test_a_remote_place_is_asked_again(failing: type[Failing]) -> None:
    failing.failures = len(image_store.PAUSES)
    assert ImageStore(["failing://images"]).load("a.png", ".") == make_image(0)


@pytest.mark.parametrize("error", [ConnectionResetError, TimeoutError, RuntimeError])
def test_one_that_stays_down_ends_the_run(failing: type[Failing], error: type[Exception], tmp_path: Path) -> None:
    failing.failures, failing.error = 1000, error
    source = tmp_path / "in.jsonl"
    source.write_text('{"question": "q", "chosen": "a", "rejected": "b", "image": "a.png"}\n')
    settings = Settings("generic", image_roots=("failing://images",))
    with pytest.raises(InputError, match="failing://images: cannot be read"):
        convert([str(source)], tmp_path / "out", settings)
    failing.failures = 0
    assert convert([str(source)], tmp_path / "out", settings)["records"]["used"] == 1


@pytest.mark.parametrize(("status", "reason"), [(404, "image-missing"), (410, "image-missing"), (500, None)])
def test_what_a_web_server_answers(status: int, reason: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    monkeypatch.setattr(image_store, "PAUSES", (0.0, 0.0))
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        store = ImageStore([f"http://127.0.0.1:{server.server_port}"])
        with pytest.raises(BadImage if reason else InputError) as found:
            store.load("a.png", ".")
        server.shutdown()
    assert getattr(found.value, "reason", None) == reason


def test_a_web_server_that_is_not_there_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_store, "PAUSES", ())
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(InputError, match="cannot be read"):
        ImageStore([address]).load("a.png", ".")


def test_a_image_that_is_not_there_or_not_ours_to_read_costs_its_row(failing: type[Failing]) -> None:
    store = ImageStore(["failing://images"])
    for error, name, reason in ((None, "b.png", "image-missing"), (PermissionError, "a.png", "image-unreadable")):
        failing.failures, failing.error = (1, error) if error else (0, ConnectionResetError)
        with pytest.raises(BadImage) as found:
            store.load(name, ".")
        assert found.value.reason == reason


@pytest.mark.parametrize("name", ["none.png", "folder", "a.png/b.png", "x" * 300, "loop"])
def test_names_that_no_file_has(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.png").write_bytes(make_image(0))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BadImage) as found:
        ImageStore([str(tmp_path)]).load(name, ".")
    assert found.value.reason == "image-missing"
