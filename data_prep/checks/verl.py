"""Loading rows through verl's own dataset class, to be sure that training can load them.

verl opens images and splits prompts in its own way, so the check uses its class unchanged, up to the number of images
that would reach the processor. Results are saved per shard, so that a second run resumes where the first one stopped.
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from data_prep.checks.rows import Failure, Report, check_parquet, expand, manifest_problems
from data_prep.files import append_json_line, json_lines
from data_prep.reading.image_files import allowed_path

LOG = "validated.jsonl"
"""One line per checked shard, in the folder of the shard."""


def validate(
    paths: Iterable[str | os.PathLike[str]],
    *,
    through_verl: bool = True,
    resume: bool = True,
    image_roots: Sequence[str] = (),
    progress: Callable[[str, int], None] | None = None,
) -> Report:
    """Check all shards with `check_parquet` and, unless told otherwise, with verl's dataset class.

    Args:
        paths: files or folders.
        through_verl: needs verl to be installed.
        resume: skip shards that passed an earlier run and have not changed since.
        image_roots: folders of named images, in addition to the folder of the row's file.
        progress: called with the name and the rows of each checked shard.
    """
    paths = list(paths)
    total = Report()
    for failure in manifest_problems(paths):
        total.add(failure)
    for file in expand(paths):
        mark = _mark(file, through_verl)
        known = _already_good(file, mark) if resume and mark else None
        if known is not None:
            total.rows += known["rows"]
            total.n_unlike_verl += known["unlike_verl"]
            continue
        report = check_parquet(file, image_roots=image_roots)
        if report.ok and through_verl:
            check_with_verl(file, report, image_roots=image_roots)
        total.rows += report.rows
        total.decoded += report.decoded
        total.failures += report.failures
        total.n_failures += report.n_failures
        total.unlike_verl += report.unlike_verl
        total.n_unlike_verl += report.n_unlike_verl
        if mark:
            counts = {"rows": report.rows, "failures": report.n_failures, "unlike_verl": report.n_unlike_verl}
            with contextlib.suppress(OSError):  # a read-only folder, or a link: the result is not saved
                append_json_line(file.parent / LOG, mark | counts)
        if progress is not None:
            progress(file.name, report.rows)
    return total


def _mark(file: Path, through_verl: bool) -> dict[str, Any] | None:
    """What identifies an unchanged shard; None for a missing file."""
    try:
        stat = file.stat()
    except OSError:
        return None
    # Not st_mtime, which is copied with a folder and its log; st_ctime cannot be set.
    return {"file": file.name, "bytes": stat.st_size, "changed": stat.st_ctime_ns, "verl": through_verl}


def _already_good(file: Path, mark: dict[str, Any]) -> dict[str, int] | None:
    """The counts of an earlier run in which the shard passed."""
    log = file.parent / LOG
    if not log.is_file():
        return None
    counts = ("rows", "failures", "unlike_verl")
    for line in json_lines(log):
        entry = line.value
        if isinstance(entry, dict) and {k: entry.get(k) for k in mark} == mark and entry.get("failures") == 0:
            found = {name: entry[name] for name in counts if type(entry.get(name)) is int and entry[name] >= 0}
            if len(found) == len(counts):
                return found
    return None


def check_with_verl(
    file: str | os.PathLike[str], report: Report | None = None, *, image_roots: Sequence[str] = ()
) -> Report:
    """Load every row of one file through `verl.utils.dataset.rl_dataset.RLHFDataset`.

    Args:
        report: failures are added to it, or to a new one.
        image_roots: folders of named images, in addition to that of the file. verl itself would open any file, and
            relative names from its working directory.
    """
    import datasets
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    class Named(RLHFDataset):  # type: ignore[misc]
        def _build_messages(self, example: dict[str, Any], key: str) -> Any:
            images = [
                str(allowed_path(image, [folder, *image_roots])) if isinstance(image, str) else image
                for image in example.get(self.image_key) or []
            ]
            return super()._build_messages({**example, self.image_key: images}, key)

    name, folder = os.fspath(file), os.path.dirname(os.path.abspath(file))
    report = Report() if report is None else report
    remedy = "Prepare the set again, or drop the row."
    # datasets keeps an Arrow copy of what it loads, which must not fill the user's cache.
    with tempfile.TemporaryDirectory() as cache:
        former = datasets.config.HF_DATASETS_CACHE
        bars = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        datasets.config.HF_DATASETS_CACHE = Path(cache)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                # The class only tests that there is a processor, since lengths are not filtered here.
                dataset = Named(
                    [name],
                    None,
                    OmegaConf.create({"filter_overlong_prompts": False, "cache_dir": cache}),
                    processor=SimpleNamespace(),
                )
            for number in range(len(dataset)):
                try:
                    _load(dataset, number)
                except Exception as error:  # anything that verl or Pillow raises
                    detail = f"verl cannot load it: {type(error).__name__}: {str(error)[:200]}"
                    report.add(Failure(name, number, "verl", detail, remedy))
        finally:
            datasets.config.HF_DATASETS_CACHE = former
            if not bars:
                datasets.enable_progress_bars()
    return report


def _load(dataset: Any, number: int) -> None:
    row = dataset[number]
    expected = len(dataset.dataframe[number]["images"] or [])
    images, _, _ = dataset._process_multi_modal_info(row["raw_prompt"], dataset.image_patch_size, dataset.config)
    if len(images or []) != expected:
        raise ValueError(f"{len(images or [])} images reach the processor, the row has {expected}")
