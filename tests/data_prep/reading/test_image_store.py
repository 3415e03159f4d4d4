"""Names of images, and the places where they are looked up."""

import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_prep.convert import convert
from data_prep.reading import image_store
from data_prep.reading.image_store import ImageStore
from data_prep.reading.images import BadImage
from data_prep.reading.inputs import InputError
from data_prep.settings import Settings
from tests.data_prep.made_images import make_image


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_entry_of_a_zip_is_a_bad_image(method: int, tmp_path: Path) -> None:
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


def test_a_cut_zip_is_named_as_such_and_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cut.zip"
    path.write_bytes(b"PK\x03\x04 and no more")
    opened = []
    original = zipfile.ZipFile

    def open_zip(name: Any) -> zipfile.ZipFile:
        opened.append(name)
        return original(name)

    monkeypatch.setattr(zipfile, "ZipFile", open_zip)
    store = ImageStore([str(path)])
    for _ in range(3):
        with pytest.raises(BadImage, match=r"cut\.zip cannot be opened as a zip: fetch it again"):
            store.load("1.jpg", ".")
    assert len(opened) == 1


def test_a_name_from_the_root_says_how_it_is_read() -> None:
    with pytest.raises(BadImage, match="--image-root / for absolute names"):
        ImageStore().load("/data/1.jpg", ".")


class Failing(MemoryFileSystem):  # type: ignore[misc]
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
    image_store._file_system.cache_clear()
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


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("in/p 1.jpg", True),
        ("./in/p 1.jpg", True),
        ("in\\p 1.jpg", True),
        ("/in/p 1.jpg", True),
        ("file:///in/p 1.jpg", True),
        ("IN/P 1.JPG", True),
        ("in/p 1", True),
        ("in/P 1", True),
        ("in/two", False),  # two.jpg or two.png
        ("in/p", False),
        ("p 1.jpg", False),
        ("in", False),
    ],
)
def test_a_name_may_differ_in_case_or_lack_its_ending(name: str, found: bool, zipped: bool, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    for seed, file in enumerate(("p 1.jpg", "two.jpg", "two.png")):
        (root / "in" / file).write_bytes(make_image(seed))
    place = str(root)
    if zipped:
        place = str(tmp_path / "root.zip")
        with zipfile.ZipFile(place, "w") as archive:
            for path in (root / "in").iterdir():
                archive.write(path, f"in/{path.name}")
    store = ImageStore([place])
    if found:
        assert store.load(name, ".") == make_image(0)
        return
    with pytest.raises(BadImage) as problem:
        store.load(name, ".")
    assert problem.value.reason == "image-missing"


@pytest.mark.parametrize("name", ["../p.jpg", "x::file:///etc/passwd", "http://127.0.0.1:9/p.jpg", "/etc/hostname"])
@pytest.mark.parametrize("root", ["{folder}", "{folder}/z.zip", "failing://images"])
def test_no_name_leads_out_of_its_root(name: str, root: str, tmp_path: Path, failing: type[Failing]) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "p.jpg").write_bytes(make_image(0))
    with zipfile.ZipFile(tmp_path / "root" / "z.zip", "w") as archive:
        archive.writestr("a.jpg", make_image(0))
    with pytest.raises(BadImage) as found:
        ImageStore([root.format(folder=tmp_path / "root")]).load(name, ".")
    assert found.value.reason in ("image-outside", "image-missing")
