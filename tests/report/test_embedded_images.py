"""Images by hash: untouched when small, shrunk when large, a reason when there is none."""

import base64
import io
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from PIL import Image

from data_prep.reading.images import BadImage
from data_prep.tasks.pairwise import EMBEDDED_IMAGES
from recipe.critic_r1.judging.pairwise import images_blake3
from recipe.critic_r1.report import embedded_images
from recipe.critic_r1.report.embedded_images import data_uri, find_images, parquet_files


def encoded(size: tuple[int, int], kind: str = "PNG", mode: str = "L", shade: int = 0) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 60 + shade).convert(mode).save(out, format=kind)
    return out.getvalue()


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def write_rows(path: Path, rows: list[list[bytes]]) -> None:
    path.parent.mkdir(exist_ok=True)
    images = [[{"bytes": raw, "path": None} for raw in row] for row in rows]
    pq.write_table(pa.table({"images": pa.array(images, type=EMBEDDED_IMAGES)}), path)


def digest(raw: bytes) -> str:
    return blake3(raw).hexdigest()


@pytest.mark.parametrize(("kind", "mime"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("GIF", "image/gif")])
def test_small_image_goes_in_byte_for_byte(kind: str, mime: str) -> None:
    raw = encoded((8, 8), kind)
    uri = data_uri(raw)
    assert uri == f"data:{mime};base64,{base64.b64encode(raw).decode()}"


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (encoded((1200, 300), "JPEG", "RGB"), "JPEG"),
        # On white, as a model sees it; a page may have a dark ground.
        (encoded((60, 90), "PNG", "RGBA"), "JPEG"),
        # No browser shows TIFF.
        (encoded((40, 40), "TIFF", "RGB"), "JPEG"),
    ],
)
def test_large_or_foreign_image_is_shrunk_for_the_page(raw: bytes, kind: str) -> None:
    uri = data_uri(raw)
    with opened(uri) as small, Image.open(io.BytesIO(raw)) as original:
        assert small.format == kind
        assert max(small.size) in embedded_images.SIDES or small.size == original.size
        assert small.width / small.height == pytest.approx(original.width / original.height, rel=0.02)


@pytest.mark.parametrize(
    "raw", [b"", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", encoded((64, 64))[:200], b"\x00" * 64]
)
def test_undecodable_bytes_make_no_image(raw: bytes) -> None:
    with pytest.raises(BadImage):
        data_uri(raw)


def test_rows_are_found_by_the_hash_that_judgements_carry(tmp_path: Path) -> None:
    first, second, third = (encoded((8, 8), shade=shade) for shade in (1, 2, 3))
    write_rows(tmp_path / "test-0.parquet", [[first], [first, second]])
    write_rows(tmp_path / "test-1.parquet", [[third], []])
    pair = images_blake3([digest(first), digest(second)])
    album = find_images(parquet_files([tmp_path]), [digest(first), pair, "f" * 64])
    assert album.of == {digest(first): [0], pair: [0, 1]}
    assert album.uris == [data_uri(first), data_uri(second)], "each image once, and none that no judgement wants"
    assert album.why_not == {"f" * 64: "in none of 2 Parquet files"}


def test_many_images_share_the_budget_by_getting_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [encoded((700, 500), "JPEG", "RGB", shade=shade) for shade in range(4)]
    write_rows(tmp_path / "rows.parquet", [[raw] for raw in files])
    monkeypatch.setattr(embedded_images, "PAGE_BUDGET", 4 * len(data_uri(files[0], allowance=1)) + 4000)
    album = find_images(parquet_files([tmp_path]), map(digest, files))
    assert album.why_not == {}
    assert sum(map(len, album.uris)) <= embedded_images.PAGE_BUDGET
    for uri in album.uris:
        with opened(uri) as small:
            assert max(small.size) == embedded_images.SIDES[-1]


def test_a_row_without_images_is_no_missing_one(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", [[]])
    album = find_images([tmp_path / "rows.parquet"], [images_blake3([])])
    assert (album.of, album.why_not) == ({images_blake3([]): []}, {})


def test_broken_image_and_full_page_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, other, broken = encoded((8, 8), shade=1), encoded((8, 8), shade=2), b"no image"
    write_rows(tmp_path / "rows.parquet", [[broken], [small], [other]])
    monkeypatch.setattr(embedded_images, "PAGE_BUDGET", len(data_uri(small)) + 10)
    album = find_images(parquet_files([tmp_path]), [digest(broken), digest(small), digest(other)])
    assert list(album.of) == [digest(small)]
    assert album.why_not[digest(broken)] == "cannot be shown (image-unreadable)"
    assert "left out" in album.why_not[digest(other)]


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (b"PAR1 not really", "Parquet"),
        (pa.table({"x": [1]}), "no column `images`"),
        (pa.table({"images": [[{"bytes": 5, "path": None}], None]}), ""),
        (pa.table({"images": ["/etc/hostname"]}), ""),
    ],
)
def test_a_file_without_images_costs_itself(tmp_path: Path, broken: bytes | pa.Table, why: str) -> None:
    if isinstance(broken, bytes):
        (tmp_path / "a.parquet").write_bytes(broken)
    else:
        pq.write_table(broken, tmp_path / "a.parquet")
    image = encoded((8, 8))
    write_rows(tmp_path / "b.parquet", [[image]])
    album = find_images(parquet_files([tmp_path]), [digest(image)])
    assert list(album.of) == [digest(image)]
    assert [
        note.startswith("a.parquet holds no images that can be read (") and why in note for note in album.notes
    ] == ([True] if why else [])


@pytest.mark.parametrize("format", ["EPS", "PPM", "TGA", "PCX", "ICNS", "PDF"])
def test_only_named_formats_are_decoded(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gs = tmp_path / "gs"
    gs.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, format)
    with pytest.raises(BadImage):
        data_uri(out.getvalue())
    assert not (tmp_path / "ran").exists()


def test_a_huge_image_is_refused_by_its_header() -> None:
    out = io.BytesIO()
    Image.new("1", (9000, 6000)).save(out, "PNG")
    with pytest.raises(BadImage, match="50,000,000 pixels"):
        data_uri(out.getvalue())


def test_names_in_rows_and_devices_are_not_opened(tmp_path: Path) -> None:
    private = tmp_path / "private.png"
    private.write_bytes(encoded((8, 8)))
    rows = [[{"bytes": None, "path": str(private)}], [{"bytes": None, "path": "/dev/zero"}]]
    pq.write_table(pa.table({"images": pa.array(rows, type=EMBEDDED_IMAGES)}), tmp_path / "rows.parquet")
    os.mkfifo(tmp_path / "fifo.parquet")
    (tmp_path / "zero.parquet").symlink_to("/dev/zero")
    files = parquet_files([tmp_path])
    assert [file.name for file in files] == ["rows.parquet"]
    assert find_images(files, [digest(private.read_bytes())]).uris == []
