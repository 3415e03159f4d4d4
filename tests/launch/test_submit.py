"""Runs sent to a Ray cluster: what is checked before, what is packed, and a real Jobs server."""

import json
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

ROOT = Path(__file__).parents[2]
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
    assert job.packed_bytes < 2_000_000
    assert not Path(jobs.given["runtime_env"]["working_dir"]).exists()
    tracked = subprocess.run(
        ["git", "ls-files", *submit.PACKAGES], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode == 0:  # a source archive has no repository
        present = {name for name in tracked.stdout.splitlines() if (ROOT / name).exists()}
        assert present <= jobs.files


def test_only_source_files_are_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Private files of every kind lie among the sources: none is sent."""
    theirs = tmp_path / "home" / ".ssh"
    theirs.mkdir(parents=True)
    (theirs / "id_rsa").write_text("PRIVATE")
    (theirs / "config.py").write_text("PRIVATE")
    root = tmp_path / "root"
    place = root / "recipe" / "critic_r1" / "launch" / "submit.py"
    place.parent.mkdir(parents=True)
    place.write_text("code")
    config = root / "recipe" / "critic_r1" / "config" / "r1.yaml"
    config.parent.mkdir()
    config.write_text("code")
    private = [".env", "key.pem", "id_rsa", ".git/config", ".netrc", "account.json", "secrets.yaml", "a.parquet"]
    private += ["model.safetensors", "weights.bin", "x.pt", "notes.ipynb", ".ipynb_checkpoints/a.py", ".venv/lib/b.py"]
    private += ["site-packages/c.py", "core.1234", "data.csv", "history.sqlite", ".secret.py", "env", "kubeconfig"]
    for package in submit.PACKAGES:
        for name in private:
            path = root / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("PRIVATE")
    (root / "recipe" / "ssh").symlink_to(theirs)
    (root / "recipe" / "linked.py").symlink_to(theirs / "config.py")
    os.mkfifo(root / "recipe" / "fifo.py")
    (root / "recipe" / "large.py").write_bytes(b"#" * (submit.LARGEST_FILE + 1))
    (root / ".env").write_text("PRIVATE")
    monkeypatch.setattr(submit, "__file__", str(place))
    with submit.packed() as folder:
        found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert found == {"recipe/critic_r1/launch/submit.py": "code", "recipe/critic_r1/config/r1.yaml": "code"}


KEYS = """VLLM_API_KEY VLLM_S3_SECRET HF_TOKEN HF_HOME_TOKEN WANDB_API_KEY OPENAI_API_KEY AWS_SECRET_ACCESS_KEY NCCL_X
VERL_SECRET RAY_AUTH_TOKEN GLOO_PASSWORD HUGGING_FACE_HUB_TOKEN HTTPS_PROXY WANDB_BASE_URL PATH"""


@pytest.mark.parametrize("name", KEYS.split())
def test_a_variable_that_is_not_named_stays_here(name: str) -> None:
    given = {name: "secret", "NCCL_DEBUG": "INFO"}
    assert submit.environment([], given) == {"NCCL_DEBUG": "INFO"}
    assert submit.environment([name], given) == given


@pytest.mark.parametrize("value", ["https://user:pw@mirror/", "https://token@mirror", "http://mirror/?api_key=abc"])
def test_an_address_with_credentials_stays_here(value: str) -> None:
    given = {"HF_ENDPOINT": value, "VERL_USE_EXTERNAL_MODULES": "json"}
    assert submit.environment([], given) == {"VERL_USE_EXTERNAL_MODULES": "json"}
    assert submit.environment([], {"HF_ENDPOINT": "https://mirror:8080/x"}) == {"HF_ENDPOINT": "https://mirror:8080/x"}


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


@pytest.mark.parametrize(
    "override",
    [
        "critic_r1.judge.base_url=https://me:pw@host/v1",
        "+trainer.address=http://host/?token=abc",
        "+ray_kwargs.ray_init.runtime_env.env_vars.WANDB_API_KEY=abcdef",
        "++trainer.api_key=abcdef",
        "critic_r1.note='Bearer abcdefgh'",
        "trainer.experiment_name=hf_abcdefghij",
    ],
)
def test_a_secret_in_an_override_is_not_sent(monkeypatch: pytest.MonkeyPatch, override: str) -> None:
    monkeypatch.setattr(submit, "check", lambda *_: None)
    jobs = Recorder()
    with pytest.raises(submit.SubmitError, match="holds a secret") as error:
        submit.submit(jobs, "r1", [*GIVEN, override])
    assert not hasattr(jobs, "given")
    assert "abc" not in str(error.value)
    assert "pw@" not in str(error.value)


@pytest.mark.parametrize(
    "override",
    ["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=9000", "+a.api_key=${oc.env:KEY}", "+a.auth=null", "~a.token"],
)
def test_an_override_without_a_secret_is_sent(override: str) -> None:
    submit.refuse_secrets([override])


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
        port: int = probe.getsockname()[1]
        return port


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


COMMANDS = """
import json, sys
from typer.testing import CliRunner
from recipe.critic_r1.cli import app
for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, words)
    print(json.dumps([done.exit_code, done.stdout, done.stderr]))
"""


def run(cluster: SimpleNamespace, *commands: list[str]) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of `critic-r1` commands, in one process outside this repository."""
    asked = json.dumps([[*words, "--address", cluster.address] for words in commands])
    env = {**cluster.env, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-c", COMMANDS, asked]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd="/", timeout=300)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.timeout(400)
def test_a_job_ends_with_its_status_and_its_log_is_followed(cluster: SimpleNamespace, tmp_path: Path) -> None:
    """The run is refused by preflight on the cluster: our code, our configuration, our exit status, in a real job."""
    overrides = [f"critic_r1.run_dir={tmp_path}/run", f"data.train_files={tmp_path}/no.parquet"]
    overrides += [f"data.val_files={tmp_path}/no.parquet", f"actor_rollout_ref.model.path={tmp_path}/no"]
    # A job that runs, sent with Ray's own command.
    ray = [Path(sys.executable).with_name("ray"), "job", "submit", "--no-wait", "--submission-id", "sleeper"]
    sleeper = [*ray, "--address", cluster.address, "--", "sleep", "300"]
    subprocess.run(sleeper, env={**cluster.env, "RAY_AUTH_MODE": "token"}, capture_output=True, check=True, timeout=170)
    sent, status, logs, ended, stopped, followed, unknown = run(
        cluster,
        ["submit", "demo", *overrides, "--job-id", "refused", "--python", sys.executable],
        ["status", "refused"],
        ["logs", "refused", "--no-follow"],
        ["stop", "refused"],
        ["stop", "sleeper"],
        ["logs", "sleeper"],
        ["status", "nobody"],
    )
    assert sent[0] == 1, sent
    assert "job refused:" in sent[2]
    assert "FAILED" in sent[2]
    assert f"{tmp_path}/no.parquet" in sent[1]
    assert "critic-r1:" in sent[1]  # preflight's error, from the job
    assert "FAILED" in status[1]
    assert logs[0] == 0
    assert f"{tmp_path}/no.parquet" in logs[1]
    assert "had ended already" in ended[2]
    assert "is being stopped" in stopped[2]
    assert (followed[0], "sleeper: STOPPED" in followed[2]) == (1, True)
    assert unknown[0] == 2
    assert "nobody" in unknown[2]
    wrong = tmp_path / "token"
    wrong.write_text("b" * 64)
    stranger = SimpleNamespace(address=cluster.address, env={**cluster.env, "RAY_AUTH_TOKEN_PATH": str(wrong)})
    assert "does not accept us" in run(stranger, ["status"])[0][2]
