"""Images by hash: untouched when small, shrunk when large, a reason when there is none."""

import base64
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from PIL import Image

from data_prep.tasks.pairwise import EMBEDDED_IMAGES
from recipe.critic_r1.judging.pairwise import images_blake3
from recipe.critic_r1.report import embedded_images
from recipe.critic_r1.report.embedded_images import data_uri, find_images
from recipe.critic_r1.report.records import ReportError


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
        (encoded((600, 900), "PNG", "RGBA"), "PNG"),
        # No browser shows TIFF.
        (encoded((40, 40), "TIFF", "RGB"), "JPEG"),
    ],
)
def test_large_or_foreign_image_is_shrunk_for_the_page(raw: bytes, kind: str) -> None:
    uri = data_uri(raw)
    assert uri is not None
    with opened(uri) as small, Image.open(io.BytesIO(raw)) as original:
        assert small.format == kind
        assert max(small.size) in embedded_images.SIDES or small.size == original.size
        assert small.width / small.height == pytest.approx(original.width / original.height, rel=0.02)


@pytest.mark.parametrize(
    "raw", [b"", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", encoded((64, 64))[:200], b"\x00" * 64]
)
def test_undecodable_bytes_make_no_image(raw: bytes) -> None:
    assert data_uri(raw) is None


def test_rows_are_found_by_the_hash_that_judgements_carry(tmp_path: Path) -> None:
    first, second, third = (encoded((8, 8), shade=shade) for shade in (1, 2, 3))
    write_rows(tmp_path / "test-0.parquet", [[first], [first, second]])
    write_rows(tmp_path / "test-1.parquet", [[third], []])
    pair = images_blake3([digest(first), digest(second)])
    album = find_images([tmp_path], [digest(first), pair, "f" * 64])
    assert album.of == {digest(first): [0], pair: [0, 1]}
    assert album.uris == [data_uri(first), data_uri(second)], "each image once, and none that no judgement wants"
    assert album.why_not == {"f" * 64: "in none of 2 Parquet files"}


def test_many_images_share_the_budget_by_getting_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [encoded((700, 500), "JPEG", "RGB", shade=shade) for shade in range(4)]
    write_rows(tmp_path / "rows.parquet", [[raw] for raw in files])
    monkeypatch.setattr(embedded_images, "PAGE_BUDGET", 4 * len(data_uri(files[0], allowance=1) or "") + 4000)
    album = find_images([tmp_path], map(digest, files))
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
    monkeypatch.setattr(embedded_images, "PAGE_BUDGET", len(data_uri(small) or "") + 10)
    album = find_images([tmp_path], [digest(broken), digest(small), digest(other)])
    assert list(album.of) == [digest(small)]
    assert "cannot be decoded (rows.parquet)" in album.why_not[digest(broken)]
    assert "left out" in album.why_not[digest(other)]


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ReportError, match=r"broken\.parquet: not a readable Parquet file"):
        find_images([tmp_path], ["a"])
    pq.write_table(pa.table({"x": [1]}), tmp_path / "broken.parquet")
    with pytest.raises(ReportError, match="no column `images`"):
        find_images([tmp_path], ["a"])
