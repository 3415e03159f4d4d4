"""A critic trains the policy: Ray, verl's reward workers, our rollout, and requests over HTTP."""

from pathlib import Path
from typing import Any

import pytest

from recipe.critic_r1.training.run_log import read_lines
from tests.e2e.conftest import Workshop, start
from tests.judging.fake_server import FakeServer, answer, say

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def prefers_longer(attempt: int, body: dict[str, Any]) -> Any:
    """A critic that counts letters; its server fails once for every request."""
    if attempt == 1:
        return "503"
    text = "".join(part.get("text", "") for part in body["messages"][0]["content"])
    first, second = text.partition("Response 1: ")[2].rpartition("\nWhich response")[0].split("\nResponse 2: ")
    return answer(body, say(1 if len(first) > len(second) else 2 if len(first) < len(second) else "tie"))


def test_a_critic_on_a_server(workshop: Workshop, tmp_path: Path) -> None:
    with FakeServer(prefers_longer) as server:
        judge = {"url": server.url, "model": "critic", "template": "compact", "scheme": "win_rate"}
        overrides = workshop.overrides(
            tmp_path,
            data__train_files=workshop.policy,
            reward__num_workers=2,
            trainer__total_training_steps=2,
            **{f"critic_r1__group_reward__{name}": value for name, value in judge.items()},
        )
        arguments = ["--config-name", "demo", "+variant=policy_by_critic", *overrides]
        status, text = start("recipe.critic_r1.train", arguments, tmp_path / "log")
    assert status == 0, text[-3000:]
    metrics = [record["data"] for record in read_lines(tmp_path / "train" / "metrics.jsonl")]
    assert [data["critic_r1/judge/unjudged"] for data in metrics] == [0.0, 0.0]
    assert sum(data["critic_r1/judge/matches"] for data in metrics) * 2 == len(server.answered)
    samples = list(read_lines(tmp_path / "train" / "samples.jsonl"))
    assert len(samples) == 2 * 8 * 4
    by_name = {(sample["step"], sample["uid"], sample["sample"]): sample for sample in samples}
    for (step, uid, _), sample in by_name.items():
        shares = [match["share"] for match in sample["matches"]]
        assert sample["acc"] == pytest.approx(sum(shares) / len(shares) if shares else 0.5)
        for match in sample["matches"]:
            (back,) = [m for m in by_name[step, uid, match["against"]]["matches"] if m["against"] == sample["sample"]]
            assert back["share"] == 1 - match["share"]
            assert back["verdicts"] == match["verdicts"][::-1]
    for body in server.bodies:
        assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "text"]


def test_the_policy_is_its_own_critic(workshop: Workshop, tmp_path: Path) -> None:
    """Two steps on questions and critic rows; the rollout engine judges, and is probed on held-out pairs."""
    judge = {"judge": "self", "template": "compact", "scheme": "win_rate"}
    probe = {"files": workshop.test, "every": 1, "rows": 6, "min_agreement": 0, "max_tokens": 20}
    overrides = workshop.overrides(
        tmp_path,
        data__train_files=f"[{workshop.policy},{workshop.train}]",
        actor_rollout_ref__rollout__max_model_len=384,
        trainer__total_training_steps=2,
        trainer__save_freq=-1,
        **{f"critic_r1__group_reward__{name}": value for name, value in judge.items()},
        **{f"critic_r1__probe__{name}": value for name, value in probe.items()},
    )
    overrides += ["+critic_r1.group_reward.max_tokens=20", "+critic_r1.group_reward.attempts=1"]
    arguments = ["--config-name", "demo", "+variant=policy_by_critic", *overrides]
    status, text = start("recipe.critic_r1.train", arguments, tmp_path / "log")
    assert status == 0, text[-3000:]
    metrics = [record["data"] for record in read_lines(tmp_path / "train" / "metrics.jsonl")]
    samples = list(read_lines(tmp_path / "train" / "samples.jsonl"))
    own = [sample for sample in samples if sample["data_source"].startswith("policy/")]
    labelled = [sample for sample in samples if sample["data_source"].startswith("critic/")]
    assert len(own) + len(labelled) == 2 * 8 * 4
    assert own
    assert labelled
    assert all("group" not in sample for sample in labelled)
    assert {sample["group"]["unjudged"] for sample in own} == {0.0}, "the servers were awake and answered"
    assert sum(data["critic_r1/judge/completion_tokens"] for data in metrics) > 0
    matches = sum(data["critic_r1/judge/matches"] for data in metrics)
    assert matches == sum(len(sample["matches"]) for sample in own) / 2 > 0
    frozen = list(read_lines(tmp_path / "train" / "probe.jsonl"))
    assert [line["step"] for line in frozen] == [0] * 6
    assert all(0 <= data["critic_r1/probe/agreement"] <= 1 for data in metrics)
    assert all(data["critic_r1/probe/request_failures"] == 0 for data in metrics)
