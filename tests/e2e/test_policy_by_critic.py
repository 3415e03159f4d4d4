"""A critic on a server trains the policy: Ray, verl's reward workers, our rollout, and requests over HTTP.

It compares each response with the policy's greedy one, which the reward workers ask the rollout servers for, in one
order. `test_train` has the policy as its own critic in both orders, and `tests/training/test_group_reward` the reward
manager against a server.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from recipe.critic_r1.training.run_log import read_lines
from tests.e2e.conftest import Workshop, matches_agree, start
from tests.judging.fake_server import FakeServer, answer, say

pytestmark = [pytest.mark.e2e, pytest.mark.bench, pytest.mark.timeout(1800)]


def compared(body: dict[str, Any]) -> tuple[str, str]:
    """The two responses in a prompt."""
    text = "".join(part.get("text", "") for part in body["messages"][0]["content"])
    first, second = text.partition("Response 1: ")[2].rpartition("\nWhich response")[0].split("\nResponse 2: ")
    return first, second


def prefers_longer(attempt: int, body: dict[str, Any]) -> Any:
    """A critic that counts letters; its server fails once for every request."""
    if attempt == 1:
        return "503"
    first, second = compared(body)
    return answer(body, say(1 if len(first) > len(second) else 2 if len(first) < len(second) else "tie"))


def test_a_critic_on_a_server(workshop: Workshop, tmp_path: Path) -> None:
    with FakeServer(prefers_longer) as server:
        judge = {"url": server.url, "model": "critic", "template": "compact", "scheme": "margin"}
        judge |= {"reference": "greedy", "orders": "drawn"}
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
    assert sum(data["critic_r1/judge/judgements"] for data in metrics) == len(server.answered) > 0
    assert not any("critic_r1/judge/flipped" in data for data in metrics)
    samples = list(read_lines(tmp_path / "train" / "samples.jsonl"))
    assert len(samples) == 2 * 8 * 4
    matches_agree(samples)
    for (match,) in (sample["matches"] for sample in samples):
        assert match["against"] == -1
        assert match["verdicts"].count("not asked") in (1, 2)  # two: the answer of the greedy response
    pairs: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for body in server.bodies:
        image, text = body["messages"][0]["content"]
        assert (image["type"], text["type"]) == ("image_url", "text")
        pairs[image["image_url"]["url"]].append(compared(body))
    for shown in pairs.values():
        firsts, seconds = map(set, zip(*shown, strict=True))
        assert 1 in (len(firsts), len(seconds)), "one greedy response a prompt, in one place"
