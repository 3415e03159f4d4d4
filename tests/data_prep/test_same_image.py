"""What is prepared is what every reader shows: ours, stock verl's, and any server's."""

import io
import json
from collections import Counter
from pathlib import Path

import PIL.Image
import pyarrow.parquet as pq
import pytest

from data_prep.checks.rows import UNLIKE_VERL, check_parquet, row_problems
from data_prep.convert import convert
from data_prep.reading.images import open_image
from data_prep.settings import Settings
from data_prep.tasks.row import row_schema
from tests.data_prep.made_images import make_image
from tests.data_prep.odd_images import DEEP, TRANSPARENT, photo

KEPT = {"jpeg": make_image(1), "png": make_image(2, form="PNG"), "upright": photo(1)}
CHANGED = {"turned": photo(6), "mirrored": photo(2, "PNG"), **TRANSPARENT, **DEEP}
REASONS = {"orientation": 2, "depth": len(DEEP), "alpha": 3, "transparency": len(TRANSPARENT) - 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("same")
    lines = []
    for number, (name, data) in enumerate({**KEPT, **CHANGED}.items()):
        (folder / f"{number}.bin").write_bytes(data)
        lines.append({"question": f"q {number}", "chosen": name, "rejected": "b", "image": f"{number}.bin"})
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    convert([str(folder / "in.jsonl")], folder / "out", Settings("generic", orders="as_is"))
    return folder


def test_bytes_are_kept_unless_other_readers_would_show_them_differently(made: Path) -> None:
    shipped = list({**KEPT, **CHANGED}.values())
    (file,) = (made / "out").glob("*.parquet")
    rows = pq.read_table(file).to_pylist()
    assert len(rows) == len(shipped)
    kept = []
    for row in rows:
        original = shipped[row["extra_info"]["index"]]
        stored = row["images"][0]["bytes"]
        with PIL.Image.open(io.BytesIO(stored)) as plain:
            assert plain.convert("RGB").tobytes() == open_image(original).tobytes() == open_image(stored).tobytes()
        kept.append(stored == original)
    assert kept == [True] * len(KEPT) + [False] * len(CHANGED)


def test_the_manifest_counts_them_by_reason(made: Path) -> None:
    manifest = json.loads((made / "out" / "manifest.json").read_text())
    assert manifest["normalised_images"] == dict(sorted(REASONS.items()))
    report = check_parquet(made / "out")
    assert (report.ok, report.n_unlike_verl) == (True, 0)


def test_validate_says_which_images_stock_verl_would_show_differently(made: Path, tmp_path: Path) -> None:
    (file,) = (made / "out").glob("*.parquet")
    rows = pq.read_table(file).to_pylist()
    for row in rows:
        row["images"] = [{"bytes": {**KEPT, **CHANGED}[row["extra_info"]["response_1"]], "path": None}]
    pq.write_table(pq.read_table(file).from_pylist(rows, schema=row_schema()), tmp_path / "foreign.parquet")
    report = check_parquet(tmp_path)
    told = Counter(note.detail.rpartition("(")[2].rstrip(")") for note in report.unlike_verl)
    # verl itself puts RGBA on white.
    assert told == {reason: count for reason, count in REASONS.items() if reason != "alpha"}
    assert report.ok
    for full in (False, True):  # found without decoding every row
        problems = [list(row_problems(row, full=full, roots=[tmp_path])) for row in rows]
        assert sum(p[0][0] == UNLIKE_VERL for p in problems if p) == report.n_unlike_verl
