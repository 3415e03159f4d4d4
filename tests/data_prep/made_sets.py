"""A small set to convert, and what tests ask of its conversion."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.settings import Settings
from tests.data_prep.made_records import GOOD

ROWS = 60


def source_file(folder: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    """A file in the form of RLAIF-V, with these rows or with `ROWS` good ones."""
    path = folder / "in.parquet"
    rows = rows if rows is not None else [GOOD["rlaif_v"](n) for n in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10)
    return path


def digest(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def settings(**changes: Any) -> Settings:
    """Small units, and a split of its own for some of the images."""
    return Settings("rlaif_v", **{"unit_rows": 10, "val_share": 0.2, **changes})
