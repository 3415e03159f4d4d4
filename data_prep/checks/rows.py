"""Checks that every row can be loaded and can earn the full reward.

A row that cannot be loaded stops a run after minutes on a GPU; a label that the reward does not know silently trains on
noise. `check_parquet` finds both without verl, fast enough to run before every training. `check_with_verl` loads the
same rows through verl's own dataset class and is slower; `critic-r1 validate` runs both.
"""

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.files import read_json
from data_prep.reading.image_files import BadImage, allowed_path, read_file
from data_prep.reading.images import normalised, open_image, read_header
from data_prep.reading.parquet_files import bounded_batches
from data_prep.tasks.pairwise import LABELS
from data_prep.tasks.prompts import MARKER
from data_prep.writer import MANIFEST, file_checksum, require_current

REQUIRED = ("data_source", "prompt", "images", "ability", "reward_model", "extra_info")
FOREIGN_MARKERS = ("<video>", "<audio>")
DECODE_ALL_BELOW = 2_000
"""Rows of a file whose images are decoded: all rows of a smaller file, evenly spread ones of a larger file."""
BATCH_ROWS = 256
COPY_AGAIN = "Copy the folder again, or prepare it again with --overwrite."
CUT_OFF = "Prepare it again: a copy or a write was interrupted."
MAX_FAILURES = 1_000
"""Failures that are listed; further ones are only counted."""


@dataclass(frozen=True)
class Failure:
    """One thing wrong with the data."""

    file: str
    row: int | None
    """Row number in the file from 0; None for the file itself."""
    reason: str
    """Short code, for counts."""
    detail: str
    remedy: str

    def __str__(self) -> str:
        place = self.file if self.row is None else f"{self.file}, row {self.row}"
        return f"{place}: {self.detail}. {self.remedy}"


@dataclass
class Report:
    """The result of a check."""

    rows: int = 0
    decoded: int = 0
    """Rows whose images were decoded; of the others the headers were read."""
    failures: list[Failure] = field(default_factory=list)
    n_failures: int = 0
    unlike_verl: list[Failure] = field(default_factory=list)
    """The first images that stock verl shows differently from critic-r1; these are not failures."""
    n_unlike_verl: int = 0

    @property
    def ok(self) -> bool:
        """Whether training may start."""
        return self.n_failures == 0

    def add(self, failure: Failure) -> None:
        """Count a failure, and list it unless there are too many."""
        self.n_failures += 1
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(failure)

    def add_unlike_verl(self, note: Failure) -> None:
        """Count an image that stock verl shows differently."""
        self.n_unlike_verl += 1
        if len(self.unlike_verl) < MAX_FAILURES:
            self.unlike_verl.append(note)


def check_parquet(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    decode_rows: int = DECODE_ALL_BELOW,
    image_roots: Sequence[str] = (),
) -> Report:
    """Check files of tasks; a folder stands for all `*.parquet` in it.

    A shard must have the checksum in its folder's manifest. Checked in every row: columns, text in all turns, as many
    `<image>` markers as images, readable headers, a label whose gold answer earns 1.0 (judgements; for pairs, "1", "2"
    or "tie"), a non-empty answer (other abilities). Never raises for malformed data, which is reported.

    Args:
        paths: one file or folder, or several.
        decode_rows: rows of each file whose images are decoded, spread evenly over the file.
        image_roots: folders of named images, in addition to the folder of the row's file.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    report = Report()
    for failure in manifest_problems(paths):
        report.add(failure)
    for path in expand(paths):
        name = str(path)
        try:
            parquet = pq.ParquetFile(path)
        except FileNotFoundError:
            report.add(Failure(name, None, "no-file", "there is no such file", "Run `critic-r1 prepare` first."))
            continue
        except (OSError, pa.ArrowException) as error:
            detail = f"not a readable Parquet file ({str(error).splitlines()[0] if str(error) else error!r})"
            report.add(Failure(name, None, "no-parquet", detail, CUT_OFF))
            continue
        with parquet:
            _check_file(path, parquet, report, decode_rows, image_roots)
        for failure in _checksum_problems(path):
            report.add(failure)
    return report


def expand(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """The Parquet files that `paths` name; an empty folder or pattern yields a path that does not exist.

    Raises:
        InputError: a folder, or the folder of a file, was written by an older version.
    """
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        path = Path(path)
        if not path.exists() and glob.has_magic(str(path)):
            found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))] or [path]
        elif path.is_dir():
            found = sorted(path.glob("*.parquet")) or [path / "*.parquet"]
        else:
            found = [path]
        for folder in {file.parent for file in found}:
            require_current(folder)
        yield from found


def manifest_problems(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Failure]:
    """Differences from the manifests of the folders among `paths`: missing, changed or unknown shards."""
    for folder in map(Path, paths):
        manifest = folder / MANIFEST
        if not manifest.is_file():
            continue
        try:
            entries = _shards(manifest, manifest.stat().st_mtime_ns)
            shards = {name: shard.get("bytes") for name, shard in entries.items()}
        except (ValueError, KeyError, TypeError) as error:
            detail = f"not a manifest of `critic-r1 prepare` ({error!r})"
            yield Failure(str(manifest), None, "manifest", detail, COPY_AGAIN)
            continue
        found = {path.name: path.stat().st_size for path in folder.glob("*.parquet")}
        for name in sorted(shards.keys() - found.keys()):
            detail = "the manifest names this shard, which is not there"
            yield Failure(str(folder / name), None, "no-file", detail, COPY_AGAIN)
        for name in sorted(found.keys() - shards.keys()):
            yield Failure(str(folder / name), None, "manifest", "the manifest does not name this file", "Move it away.")
        for name in sorted(found.keys() & shards.keys()):
            if shards[name] not in (None, found[name]):
                detail = f"{found[name]} bytes, and the manifest has {shards[name]}"
                yield Failure(str(folder / name), None, "manifest", detail, COPY_AGAIN)


def _checksum_problems(path: Path) -> Iterator[Failure]:
    """A shard without the checksum in its folder's manifest; a wrong size is reported by `manifest_problems`."""
    try:
        shard = _shards(path.parent / MANIFEST, (path.parent / MANIFEST).stat().st_mtime_ns)[path.name]
        wanted = shard.get("xxh3_128")
        if wanted is None or shard.get("bytes") not in (None, path.stat().st_size):
            return
    except (OSError, ValueError, KeyError, TypeError):
        return  # no manifest of ours, or it does not name this file
    try:
        found = file_checksum(path)
    except OSError as error:
        yield Failure(str(path), None, "no-parquet", f"it cannot be read to its end ({error})", COPY_AGAIN)
        return
    if found != wanted:
        detail = f"XXH3 checksum {found}, and the manifest has {wanted}: its content was changed"
        yield Failure(str(path), None, "manifest", detail, COPY_AGAIN)


@lru_cache(maxsize=8)
def _shards(manifest: Path, changed: int) -> dict[str, dict[str, Any]]:
    """A manifest's entries by shard; `changed` is its modification time, so that a new one is read."""
    return {shard["file"]: shard for shard in read_json(manifest)["shards"]}


def _check_file(
    path: Path, parquet: pq.ParquetFile, report: Report, decode_rows: int, image_roots: Sequence[str]
) -> None:
    name, roots = str(path), [str(path.parent), *image_roots]
    rows = parquet.metadata.num_rows
    missing = [c for c in REQUIRED if c not in parquet.schema_arrow.names]
    if missing:
        detail = f"column(s) {', '.join(missing)} missing"
        report.add(Failure(name, None, "columns", detail, "Write rows with data_prep.writer or `critic-r1 prepare`."))
        return
    if rows == 0:
        remedy = "See rejected.jsonl for why rows were dropped."
        report.add(Failure(name, None, "empty", "the file has no rows", remedy))
        return
    every = max(1, -(-rows // decode_rows)) if decode_rows > 0 else 0
    number = 0
    try:
        for batch in bounded_batches(parquet, path, list(REQUIRED), BATCH_ROWS):
            for row in batch.to_pylist():
                full = every > 0 and number % every == 0
                for reason, detail, remedy in _problems(row, full=full, roots=roots):
                    failure = Failure(name, number, reason, detail, remedy)
                    (report.add_unlike_verl if reason == UNLIKE_VERL else report.add)(failure)
                report.decoded += full
                number += 1
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        detail = f"the file breaks off after row {number} ({str(error).splitlines()[0]})"
        report.add(Failure(name, number, "no-parquet", detail, CUT_OFF))
    report.rows += number


def _problems(row: Mapping[str, Any], *, full: bool, roots: Sequence[str]) -> list[tuple[str, str, str]]:
    """`row_problems`, with a row of another structure as one of them."""
    try:
        return list(row_problems(row, full=full, roots=roots))
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        detail = f"its columns are not those of a task ({type(error).__name__}: {error})"
        return [("columns", detail, "Prepare the set with `critic-r1 prepare`.")]


UNLIKE_VERL = "unlike-verl"
"""Reason for an image that stock verl shows differently: the row is fine for critic-r1."""


def row_problems(
    row: Mapping[str, Any], *, full: bool, roots: Sequence[str | os.PathLike[str]]
) -> Iterator[tuple[str, str, str]]:
    """What is wrong with a row, as (reason, detail, remedy).

    Args:
        full: decode the images instead of reading only their headers.
        roots: folders of named images; the first is that of the row's file.
    """
    prompt, images = row["prompt"], row["images"] or []
    if not prompt or any(not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str) for turn in prompt):
        yield "prompt", "the prompt is not a list of turns with text", "Each turn is {role, content}, both strings."
        return
    text = "".join(turn["content"] for turn in prompt)
    if (markers := text.count(MARKER)) != len(images):
        detail = f"{markers} {MARKER} marker(s) in the prompt but {len(images)} image(s)"
        yield "markers", detail, "Free text must go through data_prep.tasks.prompts.neutralise."
    for marker in FOREIGN_MARKERS:
        if marker in text:
            detail = f"the prompt holds {marker}, which verl would treat as a media placeholder"
            yield "markers", detail, "Free text must go through data_prep.tasks.prompts.neutralise."
    for place, image in enumerate(images):
        try:
            data = image_bytes(image, roots)
            header = read_header(data)
            if full and header.direct:
                open_image(data)
            reason = normalised(data, header).reason
        except BadImage as error:
            yield error.reason, f"image {place}: {error}", "Drop the row or fetch the image again."
            continue
        if reason not in (None, "alpha"):
            detail = f"image {place}: stock verl shows it differently ({reason})"
            yield UNLIKE_VERL, detail, "Prepare the set again with critic-r1, which stores what it shows."
    if not isinstance(row["data_source"], str) or not row["data_source"]:
        yield "label", f"data_source is {row['data_source']!r}", "It must be text, since it selects the reward."
    yield from _label_problems(row)


def image_bytes(image: Any, roots: Sequence[str | os.PathLike[str]]) -> bytes:
    """The bytes of one entry of the `images` column.

    Args:
        roots: folders of named images; the first is that of the row's file.

    Raises:
        BadImage: there are none, or the named file is not below a root; see `allowed_path`.
    """
    if isinstance(image, Mapping):
        if isinstance(data := image.get("bytes"), bytes):
            return data
        raise BadImage("image-missing", "`bytes` is null, which verl cannot open")
    if isinstance(image, str) and image:
        try:
            return read_file(allowed_path(image, roots))
        except OSError as error:
            raise BadImage("image-unreadable", f"cannot read {image} ({error.strerror})") from error
    raise BadImage("image-missing", "neither bytes nor a path")


def _label_problems(row: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    truth = (row["reward_model"] or {}).get("ground_truth")
    ability = row["ability"]
    if ability not in JUDGEMENTS or not isinstance(truth, str):
        if not isinstance(truth, str) or not truth:
            yield "label", f"ground_truth is {truth!r}", "A task needs a non-empty answer as text."
        return
    order = (row["extra_info"] or {}).get("order")
    if ability == "critic" and order not in (None, 0, 1):
        yield "order", f"extra_info.order is {order!r}, not 0 or 1", "Prepare the set with `critic-r1 prepare`."
    if ability == "critic" and truth not in LABELS:
        detail = f"ground_truth is {truth!r}, not one of {', '.join(LABELS)}"
        yield "label", detail, "Prepare the set with `critic-r1 prepare`, which maps labels and counts unknown ones."
    elif (score := gold_score(truth, ability)) != 1.0:
        detail = f"the gold answer {truth!r} earns {score}, not 1.0"
        yield "reward", detail, "Check reward_fns.mixed: prompt, label and parser disagree."


JUDGEMENTS = ("critic", "critic_score", "critic_nway")
"""Abilities whose gold answer is the label in a box."""


@lru_cache(maxsize=1024)
def gold_score(truth: str, ability: str = "critic") -> float:
    """The reward, with its defaults, of a well-formed response with the label."""
    from reward_fns.mixed import compute_score

    return float(compute_score(f"{ability}/check", f"<think>I looked.</think>\\boxed{{{truth}}}", truth)["score"])
