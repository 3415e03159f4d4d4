"""What can be known to fail is refused before Ray starts: sizes, memory, disks and machines."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recipe.critic_r1 import preflight, provenance
from recipe.critic_r1.preflight import memory, ray_cluster, sizes, storage
from tests.preflight.conftest import ACTOR, MODEL, ROLLOUT, Run, demo, every_refusal_was_made

pytestmark = pytest.mark.usefixtures("flash_attn")


def test_a_good_run_passes(good: dict[str, str]) -> None:
    assert {finding.status for finding in preflight.check(demo(good))} == {"pass"}


def test_the_command_prints_findings_and_ends_with_2_when_one_fails(good: dict[str, str]) -> None:
    from recipe.critic_r1.cli import app

    arguments = ["preflight", "--config-name", "demo", *(f"{key}={value}" for key, value in good.items())]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0
    assert {finding["status"] for finding in json.loads(done.stdout)} == {"pass"}
    done = CliRunner().invoke(app, [*arguments, "data.max_response_length=4000"])
    assert done.exit_code == 2
    assert "FAIL  rollout.max_model_len" in done.stdout


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("critic_r1.min_free_memory_gb", "1000000", "host memory: .* free, 1000000 GB needed"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", "5", "not a multiple of actor.ppo_mini_batch_size=5"),
        (
            "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu",
            "100",
            "256 do not divide into micro-batches of 100",
        ),
        ("trainer.n_gpus_per_node", "3", r"a mini-batch of 32 prompts x 8 rollouts does not divide among 3 worker"),
        ("data.max_response_length", "4000", "more than rollout.max_model_len"),
        ("critic_r1.run_dir", "/proc/run", "/proc/run cannot be written"),
    ],
)
def test_a_setting_that_cannot_work_is_named(good: dict[str, str], key: str, value: str, said: str) -> None:
    with pytest.raises(preflight.PreflightError, match=said):
        preflight.check(demo(good | {key: value}))


def test_another_verl_is_refused(good: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipe.critic_r1.compat.VERL", "0.1.0")
    with pytest.raises(preflight.PreflightError, match=r"verl 0\.9\.1 is installed.*verl 0\.1\.0"):
        preflight.check(demo(good))
    own = [f for f in ray_cluster.versions(demo(good | {"critic_r1.image_path": "stock"})) if f.status != "pass"]
    assert [(f.status, "verl 0.9.1 is installed" in f.detail) for f in own] == [("warn", True)]


ULYSSES = f"{ACTOR}.ulysses_sequence_parallel_size"

# The check, what is changed of r1, the status, what is said.
SETTINGS = [
    (sizes.parallel, {"trainer.n_gpus_per_node": "5"}, "fail", "5 GPU.* do not divide into rollout engines of 2"),
    (sizes.parallel, {f"{ROLLOUT}.tensor_model_parallel_size": "8"}, "fail", "28 attention heads .* by .*=8"),
    (sizes.parallel, {ULYSSES: "8"}, "fail", "28 attention heads .*parallel"),
    (sizes.parallel, {ULYSSES: "3"}, "fail", "8 GPU.* into groups of 3"),
    (sizes.parallel, {ULYSSES: "2", f"{MODEL}.use_remove_padding": "false"}, "fail", "needs padding removal"),
    (
        sizes.parallel,
        {"cluster": "1x2", f"{ROLLOUT}.tensor_model_parallel_size": "4", "trainer.nnodes": "2"},
        "warn",
        "spans machines of 2 GPU",
    ),
    (sizes.batches, {"trainer.nnodes": "3"}, "fail", "1024|24 worker"),
    (sizes.batches, {"cluster": "8x8", f"{ACTOR}.ppo_micro_batch_size_per_gpu": "32"}, "fail", "of 32 on 64"),
    (sizes.room, {"data.max_response_length": "4096"}, "fail", "= 10238 is more than rollout.max_model_len=8192"),
    (sizes.room, {"tuning": "fast", f"{ACTOR}.ppo_max_token_len_per_gpu": "8000"}, "fail", "of 8190 tokens does"),
    (
        sizes.room,
        {f"{ROLLOUT}.enable_chunked_prefill": "false", f"{ROLLOUT}.max_num_batched_tokens": "4096"},
        "fail",
        "a prompt can be longer than 4096 tokens",
    ),
    (sizes.prompts, {"critic_r1.prompt_path": "twice"}, "fail", "'twice' is neither 'once' nor 'stock'"),
    (sizes.prompts, {ULYSSES: "2"}, "warn", "ulysses.* cuts sequences"),
    (sizes.prompts, {"tuning": "async"}, "warn", "colocate_async does not share prompts"),
    (sizes.trainer, {"tuning": "async"}, "warn", "colocate_async is verl's own"),
    (sizes.trainer, {"tuning": "async", "variant": "swap_consistency"}, "fail", "does not know .*swap_consistency"),
    (memory.estimate, {f"{ACTOR}.ppo_micro_batch_size_per_gpu": "16"}, "fail", "training: about .* of 80: .*logits"),
    (memory.estimate, {f"{ACTOR}.ppo_micro_batch_size_per_gpu": "13"}, "warn", "training: about 7. GiB of 80"),
    (memory.estimate, {f"{ROLLOUT}.gpu_memory_utilization": "0.9"}, "fail", "rollout: about 8. GiB of 80"),
    (
        memory.estimate,
        {f"{ROLLOUT}.gpu_memory_utilization": "0.15", f"{ROLLOUT}.tensor_model_parallel_size": "1"},
        "fail",
        "KV cache: about 0 tokens.*not one of 8190",
    ),
    (memory.estimate, {"critic_r1.machine.host_memory_gib": "96"}, "fail", "host memory: about .* of 96"),
    (memory.estimate, {f"{MODEL}.path": "nobody/nothing"}, "warn", "are not known"),
    (ray_cluster.nodes, {"cluster": "2x8"}, "warn", "no Ray address is given, so 2 machines"),
    (storage.shared_folder, {"cluster": "2x8"}, "warn", "looks local to this machine; 2 machines write there"),
]


@pytest.mark.parametrize(("check", "changed", "status", "said"), SETTINGS)
def test_a_setting_makes_its_check_speak(
    run: Run, check: preflight.Check, changed: dict[str, str], status: str, said: str
) -> None:
    run.speaks(check, changed, status, said)


@pytest.mark.parametrize(("free_gib", "status"), [(1000, "pass"), (300, "warn"), (100, "fail")])
def test_the_disk_has_room_for_checkpoints(
    run: Run, monkeypatch: pytest.MonkeyPatch, free_gib: int, status: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free_gib * 1024**3))
    (found,) = storage.checkpoints(run.config({"trainer.total_training_steps": "1000"}))
    assert found.status == status
    assert found.detail.startswith("5 checkpoint(s) of 108 GiB and the best model of 15.4 GiB = 556 GiB are kept")


def test_a_relative_folder_for_checkpoints_is_named(run: Run) -> None:
    given = run.config({}, "demo")
    given.trainer.default_local_dir = "checkpoints"
    (found,) = storage.shared_folder(given)
    assert (found.status, "is relative" in found.detail) == ("fail", True)


def test_the_file_system_is_the_one_of_the_longest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/a / ext4 rw 0 0\nnas:/x /data nfs4 rw 0 0\ntmp /data/fast tmpfs rw 0 0\n")
    table = {"/home/me": "ext4", "/data/runs/r1": "nfs4", "/data/fast/r1": "tmpfs", "/database": "ext4"}
    assert {path: storage.file_system(Path(path), mounts) for path in table} == table


def node(name: str, gpus: float = 8, **versions: str) -> ray_cluster.Node:
    return ray_cluster.Node(name, gpus, {"verl": "0.9.1", **versions})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([node("a"), node("b")], None),
        ([node("a")], "2 machine.* with 8 GPU.* are asked for, 1 have them"),
        ([node("a"), node("b", 4)], r"1 have them \(a: 8, b: 4\)"),
        ([node("a"), node("b", verl="0.9.0")], "verl is 0.9.1 on a and 0.9.0 on b"),
        ([node("a"), node("b", torch="2.11.0")], "torch is none on a and 2.11.0 on b"),
    ],
)
def test_a_cluster_is_compared_with_the_configuration(
    run: Run, found: list[ray_cluster.Node], said: str | None
) -> None:
    failed = [f.detail for f in ray_cluster.compare(run.config({"cluster": "2x8"}), found) if f.status == "fail"]
    assert bool(failed) == bool(said)
    assert said is None or re.search(said, failed[0])


def test_a_reward_model_takes_gpus_of_its_own(run: Run) -> None:
    own = {
        f"reward.reward_model.{name}": "1" for name in ("enable", "enable_resource_pool", "nnodes", "n_gpus_per_node")
    }
    (found,) = [f for f in ray_cluster.compare(run.config(own), [node("a")]) if f.status == "fail"]
    assert found.detail == "the reward model asks for 1 GPU(s) of its own, and training leaves 0 (a: 8)"
    assert all(f.status == "pass" for f in ray_cluster.compare(run.config(own), [node("a", 9)]))


def test_an_address_that_does_not_answer_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str) -> None:
        raise ConnectionError(f"no Ray at {address}")

    monkeypatch.setattr(ray_cluster, "look", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "nowhere:6379")
    assert not list(ray_cluster.nodes(run.config({}, "demo"))), "the CPU configurations start a Ray of their own"
    (found,) = ray_cluster.nodes(run.config({}))
    assert (found.status, found.detail) == ("fail", "nowhere:6379 does not answer (no Ray at nowhere:6379)")


def test_a_real_cluster_is_looked_at() -> None:
    (found,) = ray_cluster.look("local")
    assert found.versions == provenance.versions()


def test_every_refusal_was_made_by_a_test_above(request: pytest.FixtureRequest) -> None:
    every_refusal_was_made(request, "memory.py", "memory_estimate.py", "ray_cluster.py", "sizes.py", "storage.py")
