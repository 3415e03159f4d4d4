"""A critic on a server trains the policy: Ray, verl's reward workers, our rollout, and requests over HTTP.

A second sample: `test_train` has the policy as its own critic on the same stack, and `tests/training/test_group_reward`
the reward manager against a server.
"""

from pathlib import Path
from typing import Any

import pytest

from recipe.critic_r1.training.run_log import read_lines
from tests.e2e.conftest import Workshop, matches_agree, start
from tests.judging.fake_server import FakeServer, answer, say

pytestmark = [pytest.mark.e2e, pytest.mark.bench, pytest.mark.timeout(600)]


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
    matches_agree(samples)
    for body in server.bodies:
        assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "text"]
