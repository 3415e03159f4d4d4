"""Folders, disk space and free memory of the machine that the run is started from."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from recipe.critic_r1.preflight.data_files import files
from recipe.critic_r1.preflight.finding import Finding, Status
from recipe.critic_r1.preflight.memory_estimate import GIB, checkpoint_bytes
from recipe.critic_r1.preflight.model_shape import ModelShape

LOCAL_FILE_SYSTEMS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "ramfs"}
"""Types in /proc/mounts that are local to a machine. Others (nfs, lustre, fuse.*, ...) may be shared."""


def run_dir(config: DictConfig) -> Iterator[Finding]:
    """The folder of the run can be written."""
    folder = Path(config.critic_r1.run_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Finding("critic_r1.run_dir", "fail", f"{folder} cannot be written ({error.strerror})", "Choose another.")
        return
    yield Finding("critic_r1.run_dir", "pass", str(folder))


def shared_folder(config: DictConfig, mounts: Path = Path("/proc/mounts")) -> Iterator[Finding]:
    """Checkpoints go to an absolute path, on a shared file system when there are several machines."""
    folder = Path(config.trainer.default_local_dir)
    if not folder.is_absolute():
        yield Finding(
            "trainer.default_local_dir",
            "fail",
            f"{folder} is relative: every worker would write to its own working folder",
            "Give an absolute path, or leave it to critic_r1.run_dir.",
        )
        return
    kind = file_system(folder, mounts)
    if config.trainer.nnodes > 1 and kind in LOCAL_FILE_SYSTEMS:
        yield Finding(
            "trainer.default_local_dir",
            "warn",
            f"{folder} is on {kind}, which looks local to this machine; {config.trainer.nnodes} machines write there",
            "Set critic_r1.run_dir to a folder on a file system that all machines share.",
        )


def file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """Type of the file system that ``folder`` is or will be on; None when it is not known."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return None
    fitting = [(len(line[1]), line[2]) for line in lines if len(line) > 2 and folder.is_relative_to(line[1])]
    # Of several mounts on one point the last one counts.
    return max(enumerate(fitting), key=lambda item: (item[1][0], item[0]))[1][1] if fitting else None


def checkpoints(config: DictConfig) -> Iterator[Finding]:
    """The disk has space for the checkpoints that the run keeps at a time."""
    shape = ModelShape.of(config)
    if shape is None or config.trainer.save_freq <= 0:
        return
    folder = Path(config.trainer.default_local_dir)
    while not folder.exists():
        folder = folder.parent
    size = checkpoint_bytes(shape, config)
    saves = max(1, steps(config) // config.trainer.save_freq)
    keep = min(saves, config.trainer.max_actor_ckpt_to_keep or saves)
    # The best model takes no space of its own while its checkpoint is kept.
    best = checkpoint_bytes(shape, config, ["hf_model"]) if keep < saves and config.trainer.test_freq > 0 else 0.0
    free = shutil.disk_usage(folder).free
    needed = size * keep + best
    status: Status = "pass" if free >= needed else ("fail" if free < size else "warn")
    model = f" and the best model of {best / GIB:.3g} GiB" if best else ""
    yield Finding(
        "disk for checkpoints",
        status,
        f"{keep} checkpoint(s) of {size / GIB:.3g} GiB{model} = {needed / GIB:.3g} GiB are kept; {free / GIB:.3g} GiB "
        "free",
        "" if status == "pass" else "Lower trainer.max_actor_ckpt_to_keep, or set critic_r1.run_dir to a larger disk.",
    )


def steps(config: DictConfig) -> int:
    """Training steps of the run."""
    if config.trainer.total_training_steps is not None:
        return int(config.trainer.total_training_steps)
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    for path in files(config.data.train_files):
        try:
            rows += pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowException):
            continue  # reported by the data check
    return int(rows // config.data.train_batch_size * config.trainer.total_epochs)


def free_host_memory(config: DictConfig) -> Iterator[Finding]:
    """Memory free now, when the configuration sets a minimum."""
    needed = config.critic_r1.min_free_memory_gb
    if needed is None:
        return
    import psutil

    free = psutil.virtual_memory().available / 1e9
    status: Status = "fail" if free < needed else "pass"
    remedy = "Close other programs, or lower data.train_batch_size and critic_r1.min_free_memory_gb."
    yield Finding("host memory", status, f"{free:.1f} GB free, {needed} GB needed", remedy if status == "fail" else "")
