"""The checkpoint that a run would resume from is complete and has the same sharding."""

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from recipe.critic_r1.preflight.finding import Finding
from recipe.critic_r1.preflight.memory_estimate import workers
from recipe.critic_r1.training import checkpoints

VERSIONS = {"fsdp": 1, "fsdp2": 2}


def links(config: DictConfig) -> Iterator[Finding]:
    """No file of the run is a link out of its folder: logs and checkpoints would be written elsewhere."""
    run_dir = Path(config.critic_r1.run_dir)
    for name in ("train", Path(config.trainer.default_local_dir).name):
        try:
            checkpoints.refuse_links(run_dir / name, run_dir)
        except checkpoints.CheckpointError as error:
            yield Finding("critic_r1.run_dir", "fail", str(error), "Remove the link, or use another run folder.")


def checkpoint(config: DictConfig) -> Iterator[Finding]:
    """verl can load shards only with the number of workers and the FSDP strategy that wrote them."""
    mode, folder = config.trainer.resume_mode, Path(config.trainer.default_local_dir)
    if mode == "disable":
        return
    try:
        if mode == "resume_path":
            found: Path | None = Path(str(config.trainer.resume_from_path))
        elif checkpoints.interrupted(folder):
            detail = f"an interrupted save left {folder / checkpoints.TRACKER} empty"
            yield Finding("resume", "warn", detail, "`train` repairs it.")
            return
        else:
            found = checkpoints.resume_point(folder)
        written = None if found is None else checkpoints.sharding(found)
    except checkpoints.CheckpointError as error:
        yield Finding("resume", "fail", str(error), "Or start a new run: critic_r1.run_dir=...")
        return
    if found is None:
        return
    here = checkpoints.Sharding(workers(config), VERSIONS.get(config.actor_rollout_ref.actor.strategy, 0))
    differences = []
    if written is not None and written.workers != here.workers:
        differences.append(f"the number of workers was {written.workers} and is {here.workers}")
    if written is not None and here.fsdp and written.fsdp != here.fsdp:
        differences.append(f"the strategy was FSDP{written.fsdp} and is FSDP{here.fsdp}")
    if differences:
        yield Finding(
            "resume",
            "fail",
            f"{found} does not fit this run: {', '.join(differences)}",
            "Use the settings it was written with, or start from its weights with a new optimizer: critic-r1 export "
            "RUN --out MODEL, then actor_rollout_ref.model.path=MODEL and another critic_r1.run_dir.",
        )
    else:
        yield Finding("resume", "pass", f"from {found}")
