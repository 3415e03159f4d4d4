"""Checks that find a failing run before Ray starts and before a GPU is allocated.

Each check examines one thing in the configuration, on disk or in the cluster, and says what is wrong, where, and what
to do. `train` runs them all and stops when one fails. A check that cannot decide (say, because the model is still on
the Hub) passes or warns.
"""

from omegaconf import DictConfig

from data_prep.reading.inputs import InputError
from recipe.critic_r1.preflight import (
    combinations,
    data_files,
    memory,
    model_folder,
    policy_critic,
    ray_cluster,
    resume,
    reward_function,
    sizes,
    software,
    storage,
)
from recipe.critic_r1.preflight.finding import Check, Finding, PreflightError

__all__ = ["CHECKS", "Check", "Finding", "PreflightError", "check", "findings"]

CHECKS: tuple[Check, ...] = (
    data_files.missing_values,
    ray_cluster.versions,
    software.machine,
    software.flash_attn,
    combinations.fused_head,
    combinations.packing,
    combinations.rollout_engine,
    combinations.adapters,
    combinations.without_effect,
    storage.run_dir,
    resume.links,
    resume.checkpoint,
    storage.shared_folder,
    storage.free_host_memory,
    model_folder.folder,
    model_folder.engine,
    model_folder.chat_template,
    sizes.batches,
    sizes.room,
    sizes.parallel,
    sizes.prompts,
    sizes.trainer,
    reward_function.options,
    data_files.rows,
    data_files.prompt_length,
    data_files.images,
    data_files.both_orders,
    reward_function.gold,
    policy_critic.settings,
    storage.checkpoints,
    memory.estimate,
    ray_cluster.nodes,
)


def findings(config: DictConfig) -> list[Finding]:
    """The findings of all checks, in order."""
    found: list[Finding] = []
    for each in CHECKS:
        try:
            found += each(config)
        except InputError as error:  # data of an older version; raised by every check that reads the rows
            found.append(Finding("data", "fail", str(error)))
    return list(dict.fromkeys(found))


def check(config: DictConfig) -> list[Finding]:
    """All findings; raises `PreflightError` when a check fails."""
    found = findings(config)
    if any(finding.status == "fail" for finding in found):
        raise PreflightError(found)
    return found
