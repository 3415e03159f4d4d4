"""What a GPU run needs of a machine, and settings that verl accepts and that then fail."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from recipe.critic_r1 import preflight
from recipe.critic_r1.preflight import combinations, doctor, software
from recipe.critic_r1.preflight.software import Gpus
from tests.preflight.conftest import ACTOR, MODEL, ROLLOUT, Run, every_refusal_was_made

ATTENTION = f"+{MODEL}.override_config.attn_implementation"
PADDED = {f"{MODEL}.use_remove_padding": "false", ATTENTION: "sdpa"}
FUSED_FSDP2 = {f"{MODEL}.use_fused_kernels": "true", f"{ACTOR}.strategy": "fsdp2"}
H100 = ("NVIDIA H100",) * 8


@pytest.mark.parametrize(
    ("check", "changed", "status", "pattern"),
    [
        (combinations.fused_head, {f"{MODEL}.external_lib": "json"} | FUSED_FSDP2, "fail", "while it is sharded"),
        (combinations.packing, {ATTENTION: "sdpa"}, "fail", "sdpa does not keep packed sequences apart"),
        (combinations.packing, {ATTENTION: "eager"}, "fail", "eager does not keep"),
        (combinations.rollout_engine, {f"{ROLLOUT}.name": "sglang"}, "fail", "does not receive the pixel limits"),
        (combinations.without_effect, {f"{ACTOR}.freeze_vision_tower": "true"}, "fail", "ignores it"),
        (combinations.without_effect, {f"{ROLLOUT}.multi_stage_wake_up": "true"}, "warn", "without effect"),
        (combinations.without_effect, {"trainer.balance_batch": "false"}, "warn", "balance_batch: without effect"),
        (combinations.adapters, {"tuning": "lora", f"{ROLLOUT}.load_format": "dummy"}, "fail", "load the base itself"),
    ],
)
def test_what_verl_accepts_and_then_fails_is_refused(
    run: Run, check: preflight.Check, changed: dict[str, str], status: str, pattern: str
) -> None:
    (line,) = run.said(check, changed, status)
    assert pattern in line
    assert list(check(run.config({}))) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"tuning": "fast"},
        {"tuning": "lora"},
        PADDED,
        FUSED_FSDP2 | {f"{MODEL}.external_lib": "recipe.critic_r1.training.worker"},
    ],
)
def test_what_runs_is_not_refused(run: Run, changed: dict[str, str]) -> None:
    checks = (combinations.fused_head, combinations.packing, combinations.rollout_engine, combinations.adapters)
    given = run.config(changed)
    assert [finding for check in (*checks, combinations.without_effect) for finding in check(given)] == []


@pytest.mark.parametrize(
    ("gpus", "cuda", "status", "pattern"),
    [
        (Gpus(580, H100), "13.0", "pass", "8 x NVIDIA H100, driver 580, CUDA 13.0"),
        (Gpus(570, H100), "13.0", "fail", "CUDA 13.0, which torch was built for, needs 580"),
        (Gpus(535, H100), "12.8", "pass", "CUDA 12.8"),
        (Gpus(580, H100), None, "fail", "a build without CUDA"),
        (Gpus(580, H100[:2]), "13.0", "fail", "ask for 8, but this machine has 2"),
        (None, "13.0", "fail", "no NVIDIA GPU is visible here"),
    ],
)
def test_the_machine_is_looked_at(
    run: Run, monkeypatch: pytest.MonkeyPatch, gpus: Gpus | None, cuda: str | None, status: str, pattern: str
) -> None:
    monkeypatch.setattr(software, "gpus", lambda: gpus)
    monkeypatch.setattr(software, "torch_cuda", lambda: cuda)
    lines = [str(finding) for finding in software.machine(run.config({})) if finding.status == status]
    assert any(pattern in line for line in lines), lines
    # On a CPU, or where Ray decides which machines train, the GPUs of this one do not matter.
    assert [finding.check for finding in software.machine(run.config({}, "demo"))] == ["Python"]
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert [finding.check for finding in software.machine(run.config({}))] == ["Python"]


def test_a_reward_model_takes_workers_of_its_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = "reward.reward_model"
    own = {f"{model}.{name}": "1" for name in ("enable", "enable_resource_pool", "nnodes", "n_gpus_per_node")}
    (found,) = [f for f in software.machine(run.config(own, "demo")) if f.status == "fail"]
    assert (found.detail, found.remedy) == (
        "training and reward model ask for 2 workers, and Ray is started with 1",
        "ray_kwargs.ray_init.num_gpus=2",
    )
    two = {"ray_kwargs.ray_init.num_gpus": "2"}
    assert not [f for f in software.machine(run.config(own | two, "demo")) if f.status == "fail"]
    monkeypatch.setattr(software, "gpus", lambda: Gpus(580, H100))
    monkeypatch.setattr(software, "torch_cuda", lambda: "13.0")
    (found,) = [f for f in software.machine(run.config(own)) if f.status == "fail"]
    assert found.detail == "training and reward model ask for 9, but this machine has 8"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("580.65.06, NVIDIA H100\n580.65.06, NVIDIA H100\n", Gpus(580, ("NVIDIA H100",) * 2)),
        ("", None),
        ("No devices were found\n", None),
    ],
)
def test_what_nvidia_smi_says(monkeypatch: pytest.MonkeyPatch, answer: str, expected: Gpus | None) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/bin/nvidia-smi")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=answer))
    assert software.gpus() == expected

    def fail(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(9, "nvidia-smi")

    monkeypatch.setattr(subprocess, "run", fail)
    assert software.gpus() is None


def test_another_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert software.python_version().status == "pass"
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    found = software.python_version()
    assert (found.status, found.detail) == ("fail", "3.13; the pinned set is for 3.11 or 3.12")


def test_flash_attn_is_asked_for_before_anything_starts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "has_flash_attn", lambda: False)
    (line,) = run.said(software.flash_attn, {}, "fail")
    assert "flash-attn: not installed" in line
    assert "make gpu" in software.NO_FLASH_ATTN
    assert list(software.flash_attn(run.config({}, "demo"))) == []
    assert list(software.flash_attn(run.config(PADDED))) == []
    monkeypatch.setattr(software, "has_flash_attn", lambda: True)
    assert [finding.status for finding in software.flash_attn(run.config({}))] == ["pass"]


@pytest.mark.parametrize(
    ("gpus", "asked", "platform", "flash_attn"),
    [
        (None, None, "cpu", "pass"),
        (Gpus(580, H100), None, "cuda", "fail"),
        (Gpus(580, H100), "cpu", "cpu", "fail"),
        (None, "cpu", "cpu", "pass"),
    ],
)
def test_the_doctor_looks_at_the_platform_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, gpus: Gpus | None, asked: str | None, platform: str, flash_attn: str
) -> None:
    def answer(code: str, environment: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
        name = "cpu" if "cpu" in (environment.get("VERL_PLATFORM"), asked) else "cuda"
        output = f'FOUND [true, "{name}"]' if "ray.init" in code else "FOUND True"
        return subprocess.CompletedProcess([], 0, output, "")

    monkeypatch.setattr(software, "gpus", lambda: gpus)
    monkeypatch.setattr(software, "has_flash_attn", lambda: False)
    monkeypatch.setattr(doctor, "_python", answer)
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    if asked:
        monkeypatch.setenv("VERL_PLATFORM", asked)
    found = {finding.check: finding for finding in doctor.examine()}
    assert found["flash-attn"].status == flash_attn
    assert found["plug-in in a Ray worker"].status == "pass"
    assert found["plug-in in a Ray worker"].detail.endswith(f"platform {platform}")


def test_every_refusal_was_made_by_a_test_above(request: pytest.FixtureRequest) -> None:
    every_refusal_was_made(request, "software.py", "combinations.py")
