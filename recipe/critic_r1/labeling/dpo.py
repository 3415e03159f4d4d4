"""Labelled pairs as data for direct preference optimisation, in the form that TRL's DPOTrainer reads.

TRL's conversational preference form (docs of TRL 0.26, "Dataset formats"): `prompt`, `chosen` and `rejected` are lists
of turns with plain text, `images` a list; the trainer puts the images before the first user turn itself. The same
rows are written twice: as Parquet with the images inside, which `datasets` opens as images, and as JSONL with paths
to images beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.files import json_line
from data_prep.reading.images import read_header
from data_prep.tasks.pairwise import EMBEDDED_IMAGES, Image
from data_prep.tasks.prompts import valid_text
from data_prep.writer import GROUP_BYTES
from recipe.critic_r1.labeling.labeler import Decision

_TEXT = {"dtype": "string", "_type": "Value"}
_TURNS = [{"role": _TEXT, "content": _TEXT}]
_FEATURES = {
    "id": _TEXT,
    "pair_id": _TEXT,
    "prompt": _TURNS,
    "images": [{"_type": "Image"}],
    "chosen": _TURNS,
    "rejected": _TURNS,
    "confidence": {"dtype": "float64", "_type": "Value"},
}
_TURNS_TYPE = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("pair_id", pa.string()),
        ("prompt", _TURNS_TYPE),
        ("images", EMBEDDED_IMAGES),
        ("chosen", _TURNS_TYPE),
        ("rejected", _TURNS_TYPE),
        ("confidence", pa.float64()),
    ],
    # By this `datasets` knows that the structs are images.
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)


class DpoWriter:
    """Writes `SPLIT.jsonl`, `SPLIT.parquet` and `images/` into an empty folder. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.rows: dict[str, int] = {}
        """Split -> rows."""
        self._lines: dict[str, IO[str]] = {}
        self._tables: dict[str, pq.ParquetWriter] = {}
        self._pending: dict[str, list[dict[str, Any]]] = {}
        self._pending_bytes: dict[str, int] = {}

    def __enter__(self) -> DpoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is pending and close the files."""
        for split, lines in self._lines.items():
            self._flush(split)
            lines.close()
            self._tables[split].close()
        self._lines.clear()

    def write(self, decision: Decision) -> None:
        """Add a labelled pair."""
        split, prompt = decision.split, decision.pair.prompt
        if split not in self.rows:
            self.rows[split] = 0
            self._lines[split] = (self.folder / f"{split}.jsonl").open("w", encoding="utf-8")
            self._tables[split] = pq.ParquetWriter(self.folder / f"{split}.parquet", SCHEMA, compression="zstd")
            self._pending[split], self._pending_bytes[split] = [], 0
        assert decision.chosen is not None
        written = decision.pair.written
        chosen, rejected = written[decision.chosen], written[1 - decision.chosen]
        row = {
            "id": valid_text(prompt.name),
            "pair_id": decision.pair.pair_id,
            "prompt": [{"role": "user", "content": valid_text(prompt.question)}],
            "images": [self._file(image) for image in prompt.images],
            "chosen": [{"role": "assistant", "content": valid_text(chosen)}],
            "rejected": [{"role": "assistant", "content": valid_text(rejected)}],
            "confidence": decision.confidence,
        }
        self._lines[split].write(json_line(row))
        images = [bytes(image.data or b"") for image in prompt.images]
        self._pending[split].append({**row, "images": [{"bytes": data, "path": None} for data in images]})
        self._pending_bytes[split] += sum(map(len, images)) + 2 * (len(chosen) + len(rejected))
        self.rows[split] += 1
        if self._pending_bytes[split] >= GROUP_BYTES:
            self._flush(split)

    def _flush(self, split: str) -> None:
        if self._pending[split]:
            self._tables[split].write_table(pa.Table.from_pylist(self._pending[split], schema=SCHEMA))
            self._pending[split], self._pending_bytes[split] = [], 0

    def _file(self, image: Image) -> str:
        """The image as a file named by its content; its path from the folder."""
        assert image.data is not None
        name = f"{image.blake3}.{read_header(image.data).format.lower()}"
        path = self.folder / "images" / name[:2] / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image.data)
        return path.relative_to(self.folder).as_posix()
