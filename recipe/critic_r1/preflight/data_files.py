"""The Parquet files of a run: every row is checked, without verl and without decoding images."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from recipe.critic_r1.preflight.finding import Finding

REQUIRED = ("data.train_files", "data.val_files", "actor_rollout_ref.model.path")


def missing_values(config: DictConfig) -> Iterator[Finding]:
    """Keys that have no default because only the user knows them."""
    for key in REQUIRED:
        if OmegaConf.select(config, key) is None:
            yield Finding("configuration", "fail", f"{key} has no value", f"Give it on the command line: {key}=...")


def files(value: Any) -> list[Path]:
    """The existing Parquet files that a value of ``data.train_files`` names."""
    from data_prep.checks.rows import expand

    return [path for path in expand(_names(value)) if path.is_file()]


def _names(value: Any) -> list[str]:
    names = value if isinstance(value, (list, ListConfig)) else [] if value is None else [value]
    return [os.path.expanduser(str(name)) for name in names]


def rows(config: DictConfig) -> Iterator[Finding]:
    """Columns, markers, images, labels and gold answers of every row; enough rows for a batch."""
    from data_prep.checks.rows import check_parquet

    roots = [str(root) for root in config.data.get("image_roots") or []]
    for key in ("train_files", "val_files"):
        if config.data[key] is None:
            continue
        report = check_parquet(_names(config.data[key]), image_roots=roots)
        for failure in report.failures[:10]:
            yield Finding(f"data.{key}", "fail", str(failure))
        if report.n_failures > 10:
            yield Finding(f"data.{key}", "fail", f"{report.n_failures - 10} more failures of this kind")
        if report.ok:
            yield Finding(f"data.{key}", "pass", f"{report.rows} rows")
            if report.n_unlike_verl and config.critic_r1.image_path == "stock":
                yield Finding(
                    f"data.{key}",
                    "warn",
                    f"{report.n_unlike_verl} images are shown differently by stock verl, first {report.unlike_verl[0]}",
                )
            if key == "train_files" and report.rows < config.data.train_batch_size:
                yield Finding(
                    "data.train_batch_size",
                    "fail",
                    f"{report.rows} training rows do not fill one batch of {config.data.train_batch_size}",
                    "Lower data.train_batch_size or prepare more rows.",
                )


def prompt_length(config: DictConfig) -> Iterator[Finding]:
    """The longest prompt, as measured by `critic-r1 prepare`, is within the limit."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    limit, unmeasured = config.data.max_prompt_length, 0
    for path in files(config.data.train_files) + files(config.data.val_files):
        try:
            with pq.ParquetFile(path) as file:
                table = file.read(columns=["extra_info.prompt_tokens"])
        except (OSError, ValueError):
            continue  # reported by the data check
        if "extra_info" not in table.column_names:
            continue  # not prepared by us; verl itself refuses a prompt that is too long
        tokens = pc.struct_field(table["extra_info"], "prompt_tokens")
        unmeasured += tokens.null_count
        longest = pc.max(tokens).as_py()
        if longest is not None and longest > limit:
            yield Finding(
                "data.max_prompt_length",
                "fail",
                f"{path}: the longest prompt has {longest} tokens, the limit is {limit}",
                "Raise data.max_prompt_length, or prepare the data with a lower --max-prompt-tokens.",
            )
    if unmeasured and config.trainer.device != "cpu":
        yield Finding(
            "data.max_prompt_length",
            "warn",
            f"the prompts of {unmeasured} rows were never measured; one that is too long loses its group",
            "Prepare the data with --model, --max-prompt-tokens and the pixel limits of the configuration.",
        )


def both_orders(config: DictConfig) -> Iterator[Finding]:
    """Swap consistency needs each pair in both orders; without them it would pay nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not config.critic_r1.swap_consistency.weight > 0:
        return
    tables = []
    for path in files(config.data.train_files):
        try:
            with pq.ParquetFile(path) as file:
                info = file.read(columns=["extra_info.pair_id", "extra_info.order"])["extra_info"]
            pairs, orders = (pc.struct_field(info, name) for name in ("pair_id", "order"))
            tables.append(pa.table({"pair": pairs.cast(pa.string()), "order": orders.cast(pa.int64())}).drop_null())
        except (OSError, KeyError, pa.ArrowException):
            continue  # reported by the data check, or not prepared by us
    found = pa.concat_tables(tables).group_by("pair").aggregate([("order", "count_distinct")]) if tables else None
    remedy = "Prepare the data with --orders both, or set critic_r1.swap_consistency.weight=0."
    if found is None or not found.num_rows:
        yield Finding("swap consistency", "fail", "no row of data.train_files names its pair and order", remedy)
        return
    single = pc.sum(pc.less(found["order_count_distinct"], 2)).as_py()
    if single:
        yield Finding(
            "swap consistency",
            "fail" if single == found.num_rows else "warn",
            f"{single} of {found.num_rows} pairs are in data.train_files in one order only",
            remedy,
        )


def images(config: DictConfig) -> Iterator[Finding]:
    """No row has more images than the rollout engine is configured for."""
    limits = OmegaConf.select(config, "actor_rollout_ref.rollout.engine_kwargs.vllm.limit_mm_per_prompt") or {}
    limit = limits.get("image")
    if limit is None:
        return
    for path in files(config.data.train_files) + files(config.data.val_files):
        most = most_images(path)
        if most is not None and most > limit:
            yield Finding(
                "limit_mm_per_prompt",
                "fail",
                f"{path}: a row has {most} images, the rollout engine takes {limit}",
                f"actor_rollout_ref.rollout.engine_kwargs.vllm.limit_mm_per_prompt.image={most}",
            )


def most_images(path: Path) -> int | None:
    """The largest number of images in a row; None for a file without readable ``images``. No image is read."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            # The list lengths are the same in every leaf, so the bytes of embedded images need not be read.
            paths = [file.schema.column(i).path for i in range(len(file.schema))]
            leaves = [name for name in paths if name.startswith("images.") and not name.endswith(".bytes")]
            most = pc.max(pc.list_value_length(file.read(columns=leaves[:1])["images"])).as_py() if leaves else None
    except (OSError, KeyError, pa.ArrowException):
        return None
    return None if most is None else int(most)


def mean_image(paths: list[Path], sample: int = 256, roots: Sequence[str] = ()) -> tuple[float, float] | None:
    """Mean pixels and mean bytes of all images of a row, over the first rows; None when no row can be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from data_prep.checks.rows import image_bytes
    from data_prep.reading.images import BadImage, read_header

    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                batch = next(file.iter_batches(sample, columns=["images"]), None)
                records = batch.to_pylist() if batch is not None else []
            found = []
            for record in records:
                encoded = [image_bytes(image, [path.parent, *roots]) for image in record["images"] or []]
                headers = [read_header(data) for data in encoded]
                found.append((sum(h.width * h.height for h in headers), sum(len(data) for data in encoded)))
        except (OSError, KeyError, pa.ArrowException, BadImage):
            continue  # reported by the data check
        if found:
            pixels, sizes = zip(*found, strict=True)
            return sum(pixels) / len(found), sum(sizes) / len(found)
    return None
