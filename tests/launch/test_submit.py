"""Runs sent to a Ray cluster: what is checked before, what is packed, and a real Jobs server."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from recipe.critic_r1.cli import app
from recipe.critic_r1.launch import submit

GIVEN = ["critic_r1.run_dir=/shared/r1", "data.train_files=/shared/t.parquet", "data.val_files=[/shared/v.parquet]"]


class Recorder:
    """Ray's Jobs client as far as `submit` uses it; keeps what it was given."""

    def submit_job(self, **given: Any) -> str:
        self.given = given
        folder = Path(given["runtime_env"]["working_dir"])
        self.files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        return given["submission_id"] or "raysubmit_1"


def test_a_job_is_the_code_and_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", "json")
    jobs = Recorder()
    job = submit.submit(jobs, "r1", [*GIVEN, "cluster=4x8", "trainer.experiment_name='a b'"], env=["MY=1=2"])
    assert job.entrypoint == (
        "python -m recipe.critic_r1.train --config-name r1 critic_r1.run_dir=/shared/r1 "
        "data.train_files=/shared/t.parquet 'data.val_files=[/shared/v.parquet]' cluster=4x8 "
        "'trainer.experiment_name='\"'\"'a b'\"'\"''"
    )
    variables = jobs.given["runtime_env"]["env_vars"]
    assert variables["NCCL_SOCKET_IFNAME"] == "eth0"
    assert variables["MY"] == "1=2"
    assert variables["VERL_USE_EXTERNAL_MODULES"] == "recipe.critic_r1.plugin,json"
    assert "WANDB_API_KEY" not in variables
    assert "WANDB_API_KEY" in submit.environment(["WANDB_API_KEY"])
    assert {"recipe/critic_r1/config/r1.yaml", "reward_fns/preference.py", "data_prep/tasks/pairwise.py"} <= jobs.files
    assert not [name for name in jobs.files if name.endswith((".parquet", ".pyc", ".safetensors"))]
    assert job.packed_bytes < 2_000_000
    assert not Path(jobs.given["runtime_env"]["working_dir"]).exists()


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("r1", GIVEN[1:], r"critic_r1.run_dir=runs/\S+ is relative"),
        ("r1", [*GIVEN, "data.train_files=t.parquet"], r"data.train_files=t.parquet is relative"),
        ("r1", [*GIVEN, "data.val_files=[/a,b]"], r"data.val_files=b is relative"),
        ("r1", GIVEN[:1], "data.train_files is not set"),
        ("r1", [*GIVEN, "actor_rollout_ref.rollout.m=8"], "r1 does not compose: .*rollout.m"),
        ("r1", [*GIVEN, "cluster=5x8"], "r1 does not compose: .*5x8"),
        ("r2", GIVEN, "r2 does not compose: .*r2"),
        ("r1", [*GIVEN, "data.val_files=${nowhere}"], "r1 does not compose: .*nowhere"),
    ],
)
def test_a_mistake_is_found_here(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(submit.SubmitError, match=f"(?s){message}"):
        submit.submit(Recorder(), name, overrides)


@pytest.mark.parametrize(
    ("item", "message"), [("UNSET_HERE", "not set here"), ("a b=1", "not NAME or"), ("=1", "not NAME")]
)
def test_a_variable_that_cannot_be_sent(item: str, message: str) -> None:
    with pytest.raises(submit.SubmitError, match=message):
        submit.environment([item])


class Starting(Recorder):
    """A cluster that is not ready at once."""

    def __init__(self, refusals: list[str]) -> None:
        self.refusals = refusals

    def submit_job(self, **given: Any) -> str:
        if self.refusals:
            raise RuntimeError(self.refusals.pop(0))
        return super().submit_job(**given)


def test_a_cluster_that_has_just_started_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "SOON", 0.01)
    jobs = Starting(["status code 500: No available agent to submit job, please try again later.."] * 3)
    assert submit.submit(jobs, "r1", GIVEN).id == "raysubmit_1"
    jobs = Starting(["status code 500: a job of this name exists"] * 2)
    with pytest.raises(submit.SubmitError, match="refused the job: status code 500: a job of this name exists"):
        submit.submit(jobs, "r1", GIVEN)
    assert len(jobs.refusals) == 1


def test_an_address_where_nobody_answers() -> None:
    done = CliRunner(env={"RAY_AUTH_MODE": "disabled"}).invoke(
        app, ["submit", "r1", *GIVEN, "--address", "http://127.0.0.1:9"]
    )
    assert done.exit_code == 2
    assert "no Ray Jobs server at http://127.0.0.1:9" in " ".join(done.stderr.split())


def test_no_address() -> None:
    done = CliRunner(env={"RAY_API_SERVER_ADDRESS": ""}).invoke(app, ["status"])
    assert done.exit_code == 2
    assert "which cluster?" in done.stderr


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SimpleNamespace]:
    """A Ray head of its own, with its Jobs server, which asks for a token."""
    # Ray's sockets need a short path, and in its usual folder it would be found by every other Ray on the machine.
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    token, log = folder / "token", folder / "head.log"
    token.write_text("a" * 64)
    ray, port, dashboard = Path(sys.executable).with_name("ray"), _free_port(), _free_port()
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_TOKEN_PATH": str(token)}
    command = [ray, "start", "--head", "--block", "--port", port, "--dashboard-port", dashboard, "--num-cpus", 2]
    command += ["--num-gpus", 0, "--object-store-memory", 100_000_000, "--include-dashboard", "true"]
    # A job is run by the agent, whose usual port belongs to whichever Ray of this machine started first.
    command += ["--dashboard-agent-listen-port", _free_port(), "--temp-dir", folder / "tmp"]
    with log.open("wb") as output:
        head = subprocess.Popen(
            [str(part) for part in command], stdout=output, stderr=output, env={**env, "RAY_AUTH_MODE": "token"}
        )
    found = SimpleNamespace(address=f"http://127.0.0.1:{dashboard}", env=env)
    try:
        for _ in range(180):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                    break
            assert head.poll() is None, log.read_text()
            time.sleep(0.5)
        yield found
    finally:
        head.terminate()  # --block ends the processes it started
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def run(cluster: SimpleNamespace, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``critic-r1`` with these arguments in a process of its own, outside this repository."""
    command = [sys.executable, "-m", "recipe.critic_r1.cli", *arguments, "--address", cluster.address]
    env = {**cluster.env, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd="/", timeout=170)


@pytest.mark.timeout(400)
def test_a_job_ends_with_its_status_and_its_log_is_followed(cluster: SimpleNamespace, tmp_path: Path) -> None:
    """The run is refused by preflight on the cluster: our code, our configuration, our exit status, in a real job."""
    overrides = [f"critic_r1.run_dir={tmp_path}/run", f"data.train_files={tmp_path}/no.parquet"]
    overrides += [f"data.val_files={tmp_path}/no.parquet", f"actor_rollout_ref.model.path={tmp_path}/no"]
    sent = run(cluster, "submit", "demo", *overrides, "--job-id", "refused", "--python", sys.executable)
    assert sent.returncode == 1, sent.stdout + sent.stderr
    assert "job refused:" in sent.stderr
    assert "FAILED" in sent.stderr
    assert f"{tmp_path}/no.parquet" in sent.stdout
    assert "critic-r1:" in sent.stdout  # preflight's error, from the job
    status = run(cluster, "status", "refused")
    assert "FAILED" in status.stdout
    logs = run(cluster, "logs", "refused", "--no-follow")
    assert logs.returncode == 0
    assert f"{tmp_path}/no.parquet" in logs.stdout
    assert "had ended already" in run(cluster, "stop", "refused").stderr
    # One that runs, sent with Ray's own command.
    ray = [Path(sys.executable).with_name("ray"), "job", "submit", "--no-wait", "--submission-id", "sleeper"]
    sleeper = [*ray, "--address", cluster.address, "--", "sleep", "300"]
    subprocess.run(sleeper, env={**cluster.env, "RAY_AUTH_MODE": "token"}, capture_output=True, check=True, timeout=170)
    assert "is being stopped" in run(cluster, "stop", "sleeper").stderr
    followed = run(cluster, "logs", "sleeper")
    assert (followed.returncode, "sleeper: STOPPED" in followed.stderr) == (1, True)
    wrong = tmp_path / "token"
    wrong.write_text("b" * 64)
    stranger = SimpleNamespace(address=cluster.address, env={**cluster.env, "RAY_AUTH_TOKEN_PATH": str(wrong)})
    assert "does not accept us" in run(stranger, "status").stderr
    unknown = run(cluster, "status", "nobody")
    assert unknown.returncode == 2
    assert "nobody" in unknown.stderr
