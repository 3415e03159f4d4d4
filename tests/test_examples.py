"""Every script and manifest of examples/ is run or parsed, and what it hands to the trainer composes.

Scripts run for real, with the programs at their end (python3, torchrun, srun, ...) replaced by one that writes down
how it was called: so quoting, arrays and defaults are bash's own.
"""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from tests.config.test_configs import RUNS, accept

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.sh"))

RECORDER = """#!/bin/sh
exec "{python}" - "$0" "$@" <<'PY'
import json, os, sys
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[1]), *sys.argv[2:]]) + "\\n")
if "hostname" in sys.argv or "hostnames" in sys.argv:
    print("10.0.0.1\\n10.0.0.2" if "hostnames" in sys.argv else "10.0.0.1 fe80::1")
PY
"""


def called(script: Path, folder: Path, *arguments: str, **environment: str) -> list[list[str]]:
    """What the script called: program and arguments, in order."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("python3", "torchrun", "critic-r1", "srun", "scontrol", "ray", "sleep"):
        program = programs / name
        program.write_text(RECORDER.format(python=os.path.realpath("/proc/self/exe")))
        program.chmod(0o755)
    calls = folder / "calls.jsonl"
    path = f"{programs}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(script), *arguments],
        env={"PATH": path, "CALLS": str(calls), "HOME": str(folder), **environment},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in calls.read_text().splitlines()]


def composed(call: list[str]) -> tuple[str, DictConfig]:
    """Name and configuration of a call of the trainer."""
    at = call.index("--config-name")
    with initialize_config_module("recipe.critic_r1.config", version_base=None):
        return call[at + 1], compose(call[at + 1], overrides=call[at + 2 :])


def accept_with_groups(call: list[str]) -> None:
    """verl accepts what the call composes, and the same with an option of each group behind it."""
    accept(composed(call)[1])
    accept(composed([*call, "cluster=2x8", "tuning=fast", "ablation=format_only", "variant=swap_consistency"])[1])


def trainings(calls: list[list[str]]) -> list[list[str]]:
    return [call for call in calls if "recipe.critic_r1.train" in call]


ONE_RUN = {
    "run_qwen2_5_vl_7b_r1.sh": "r1",
    "run_thinklite_vl_7b_r1_plus.sh": "r1_plus",
    "run_mimo_vl_7b_sft_r1.sh": "r1_mimo_sft",
    "run_mimo_vl_7b_rl_r1_plus.sh": "r1_plus_mimo",
    "run_qwen3_vl_8b_r1.sh": "r1_qwen3_vl_8b",
}


def test_every_example_is_tested() -> None:
    rest = {"run_policy_then_critic.sh", "run_qwen2_5_vl_7b_sft.sh"}
    rest |= {"slurm_r1.sbatch", "rayjob_r1.yaml", "skypilot_r1.yaml", "Dockerfile"}
    assert {path.name for path in EXAMPLES.iterdir()} == set(ONE_RUN) | rest
    assert set(ONE_RUN.values()) == set(RUNS) - {"r1_release"}  # for comparison, started by hand


@pytest.mark.parametrize("path", [*SCRIPTS, EXAMPLES / "slurm_r1.sbatch"], ids=lambda path: path.name)
def test_bash_reads_it_and_it_can_be_started(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "user-adjustable" in text
    assert path.suffix != ".sh" or os.access(path, os.X_OK)


@pytest.mark.parametrize(("script", "name"), ONE_RUN.items())
def test_a_run_composes(tmp_path: Path, script: str, name: str) -> None:
    data = tmp_path / "data" / "critic"
    data.mkdir(parents=True)
    for shard in ("train-00000", "train-00001", "val-00000"):
        (data / f"{shard}.parquet").touch()
    (call,) = trainings(called(EXAMPLES / script, tmp_path, "trainer.total_epochs=1", CLUSTER="4x8", TUNING="fast"))
    found, config = composed(call)
    assert found == name
    assert list(config.data.train_files) == [str(data / f"train-0000{i}.parquet") for i in (0, 1)]
    assert list(config.data.val_files) == [str(data / "val-00000.parquet")]
    assert (config.trainer.nnodes, config.trainer.total_epochs) == (4, 1)
    assert Path(config.critic_r1.run_dir).is_absolute()
    assert config.actor_rollout_ref.actor.use_dynamic_bsz  # tuning=fast
    with initialize_config_module("recipe.critic_r1.config", version_base=None):
        assert config.actor_rollout_ref.model.path == compose(name).actor_rollout_ref.model.path
    accept_with_groups(call)


@pytest.mark.parametrize("script", ONE_RUN)
def test_the_data_command_of_its_head_is_one_that_exists(script: str) -> None:
    from typer.testing import CliRunner

    from recipe.critic_r1.cli import app

    text = (EXAMPLES / script).read_text().replace("\\\n#", " ")
    command = re.search(r"critic-r1 (prepare .*)", text)
    assert command
    words = shlex.split(command[1])
    pixels = OmegaConf.load(ROOT / "recipe/critic_r1/config/pixels/release.yaml").data.mm_processor_kwargs
    assert words[words.index("--min-pixels") + 1] == str(pixels.min_pixels)
    assert words[words.index("--max-pixels") + 1] == str(pixels.max_pixels)
    at = words.index("--input")
    result = CliRunner().invoke(app, [*words[: at + 1], "/no/such/folder", *words[at + 2 :]])
    assert "No such option" not in result.output
    assert result.exit_code in (1, 2)


def test_policy_then_critic_is_two_runs_with_an_export_between(tmp_path: Path) -> None:
    calls = called(EXAMPLES / "run_policy_then_critic.sh", tmp_path)
    assert [call[0] for call in calls] == ["python3", "critic-r1", "python3"]
    (_, first), (_, second) = composed(calls[0]), composed(calls[2])
    run, out = calls[1][2], calls[1][4]
    assert calls[1][1:4:2] == ["export", "--out"]
    assert (first.critic_r1.run_dir, second.actor_rollout_ref.model.path) == (run, out)
    assert first.reward.custom_reward_function.path == "pkg://reward_fns.answer"
    assert second.reward.custom_reward_function.path == "pkg://reward_fns.preference"
    assert first.critic_r1.run_dir != second.critic_r1.run_dir
    for call in (calls[0], calls[2]):
        accept_with_groups(call)


def test_the_supervised_run_composes(tmp_path: Path) -> None:
    (call,) = called(EXAMPLES / "run_qwen2_5_vl_7b_sft.sh", tmp_path)
    assert call[call.index("-m") + 1] == "verl.trainer.sft_trainer"
    assert call[call.index("--config-path") + 1] == "pkg://recipe.critic_r1.config"
    name, config = composed(call)
    assert (name, config.trainer.n_gpus_per_node, int(call[call.index("--nproc-per-node") + 1])) == ("critic_sft", 8, 8)
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def test_the_slurm_job_starts_a_head_workers_and_the_run(tmp_path: Path) -> None:
    calls = called(
        EXAMPLES / "slurm_r1.sbatch",
        tmp_path,
        SLURM_JOB_NODELIST="a,b",
        SLURM_SUBMIT_DIR=str(tmp_path),
        CONFIG="r1_plus",
    )
    heads = [call for call in calls if call[0] == "srun" and "--head" in call]
    joins = [call for call in calls if call[0] == "srun" and "--address=10.0.0.1:6379" in call]
    assert (len(heads), len(joins)) == (1, 1)
    (call,) = trainings(calls)
    name, config = composed(call)
    assert name == "r1_plus"
    text = (EXAMPLES / "slurm_r1.sbatch").read_text()
    assert config.trainer.nnodes == int(re.search(r"--nodes=(\d+)\n", text)[1])  # type: ignore[index]
    assert config.trainer.n_gpus_per_node == int(re.search(r"--gpus-per-node=(\d+)\n", text)[1])  # type: ignore[index]
    assert Path(config.critic_r1.run_dir).is_absolute()
    accept_with_groups(call)


def pinned(name: str) -> str:
    found = re.search(
        rf"^{re.escape(name)}(?:\[\w+\])?==([\w.]+)",
        "".join((ROOT / "requirements" / file).read_text() for file in ("gpu.txt", "flash-attn.txt")),
        re.MULTILINE,
    )
    assert found, name
    return found[1]


def test_the_ray_job_has_the_machines_of_its_run() -> None:
    job, policy = yaml.safe_load_all((EXAMPLES / "rayjob_r1.yaml").read_text())
    selected = policy["spec"]["podSelector"]["matchLabels"]
    assert (policy["kind"], policy["spec"]["policyTypes"]) == ("NetworkPolicy", ["Ingress"])
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == pinned("ray")
    call = shlex.split(job["spec"]["entrypoint"])
    _, config = composed(call)
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"]
    assert config.trainer.nnodes == 1 + workers["replicas"]
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        assert selected.items() <= group["template"]["metadata"]["labels"].items()
        assert pod["securityContext"]["runAsNonRoot"]
        (container,) = pod["containers"]
        assert int(container["resources"]["limits"]["nvidia.com/gpu"]) == config.trainer.n_gpus_per_node
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
        assert config.critic_r1.run_dir.startswith(mounts["shared"])
    accept_with_groups(call)


def test_the_skypilot_task_has_the_machine_of_its_run() -> None:
    task = yaml.safe_load((EXAMPLES / "skypilot_r1.yaml").read_text())
    call = shlex.split(task["run"].replace("\\\n", " "))
    _, config = composed(call)
    assert config.trainer.nnodes == task["num_nodes"]
    assert config.trainer.n_gpus_per_node == int(task["resources"]["accelerators"].split(":")[1])
    assert any(config.critic_r1.run_dir.startswith(mount) for mount in task["file_mounts"])
    assert re.search(r"^gpu:$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "make gpu" in task["setup"]
    accept_with_groups(call)


def test_the_dockerfile_copies_what_exists_and_installs_what_is_pinned() -> None:
    text = (EXAMPLES / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert {line.split()[0] for line in lines} == {"FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "USER"}
    for line in lines:
        if line.startswith("COPY"):
            *sources, _ = line.removeprefix("COPY").replace("--chown=critic", "").split()
            assert all((ROOT / source).exists() for source in sources), line
    user = next(i for i, line in enumerate(lines) if line.startswith("USER"))
    assert not [line for line in lines[user:] if "apt-get" in line or line == "USER root"]
    assert [line for line in lines[user:] if line.startswith("RUN")]
    assert pinned("flash-attn") == "2.8.3"
    commands = " ".join(line.removeprefix("RUN") + ";" for line in lines if line.startswith("RUN"))
    subprocess.run(["bash", "-n", "-c", commands], check=True)


def test_flash_attn_is_installed_after_torch() -> None:
    """Its build needs torch and wheel; a file with both could not be installed."""
    assert "flash-attn" not in (ROOT / "requirements" / "gpu.txt").read_text()
    assert pinned("wheel")
    for text in ((ROOT / "Makefile").read_text(), (EXAMPLES / "Dockerfile").read_text()):
        assert text.index("-r requirements/gpu.txt") < text.index("--no-build-isolation -r requirements/flash-attn.txt")


@pytest.mark.parametrize("choice", ["build", "none", "/wheels/flash_attn-2.8.3.whl"])
def test_make_gpu_does_what_is_asked(choice: str) -> None:
    command = ["make", "--dry-run", "--no-print-directory", "gpu", f"FLASH_ATTN={choice}"]
    # `make test` hands its own flags down.
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=True)
    assert ("MAX_JOBS=" in done.stdout) == (choice == "build")
    assert ("/wheels/" in done.stdout) == choice.endswith(".whl")
    assert done.stdout.rstrip().endswith("critic-r1 doctor")
