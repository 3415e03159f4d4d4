"""The arms of `benchmarks.policy_by_critic`: what each is paid by, and what is reported."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from verl.trainer.ppo.reward import resolve_reward_manager_cls
from verl.utils.import_utils import load_extern_object

from benchmarks import policy_by_critic
from benchmarks.control_rewards import MajorityGroups, ShuffledGroups
from benchmarks.demo import over_seeds
from recipe.critic_r1.train import compose_config
from recipe.critic_r1.training.critic_probe import ProbeSettings
from recipe.critic_r1.training.judge_settings import JudgeSettings
from tests.judging.fake_server import FakeServer
from tests.reward_fns.test_critic_groups import boxed, larger
from tests.training.test_group_reward import group, settings, worker


@pytest.mark.parametrize("arm", policy_by_critic.ARMS)
def test_an_arm_composes_and_is_paid_by_what_its_name_says(arm: str, tmp_path: Path) -> None:
    given = policy_by_critic.overrides(
        arm, Path("demo"), Path("start"), Path("q.parquet"), tmp_path, seed=3, steps=7, url="http://h/v1"
    )
    config = compose_config("demo", given)
    assert (config.trainer.total_training_steps, config.data.seed) == (7, 3)
    assert config.actor_rollout_ref.model.path == "start"
    assert load_extern_object(config.reward.custom_reward_function.path, "compute_score").__module__.endswith("mixed")
    assert len(config.data.train_files) == (2 if arm == "self_mixed" else 1)
    if arm == "truth":
        assert config.reward.reward_manager.source == "register"
        return
    names = {"shuffled": "ShuffledGroups", "majority": "MajorityGroups"}
    assert resolve_reward_manager_cls(config).__name__ == names.get(arm, "CriticGroupRewardManager")
    judge = JudgeSettings.of(config, None)
    assert judge.place == (None if arm.startswith("self") else ("http://h/v1", "critic"))
    assert (ProbeSettings.of(config) is not None) == arm.startswith("self")


def paid(manager: str, answers: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, uid: str = "a") -> Any:
    config = settings()
    config.reward.reward_manager.name = manager
    config.reward.reward_manager.module.path = "pkg://benchmarks.control_rewards"

    async def run() -> Any:
        config.critic_r1.group_reward.url = server.url
        verls = worker(config, monkeypatch)
        async with verls.reward_manager._critics[0]:
            return await verls.compute_score_batch(group([*boxed(*answers), "none"], uid=uid))

    with FakeServer(larger) as server:
        results = asyncio.run(run())
    return [result["reward_extra_info"]["acc"] for result in results], len(server.bodies)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [((3, 5, 3), [1, 0, 1, 0]), ((3, 5, 5, 3), [1, 0, 0, 1, 0]), ((4, 4), [1, 1, 0])],
)
def test_the_most_frequent_answer_is_paid(
    answers: tuple[int, ...], expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert paid(MajorityGroups.__name__, answers, monkeypatch) == (expected, 0)


def test_shuffled_scores_are_the_critics_on_other_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal answers keep equal scores; over several groups they are not the critic's order."""
    found = [paid(ShuffledGroups.__name__, (1, 2, 3, 2), monkeypatch, uid) for uid in "abcd"]
    assert {asked for _, asked in found} == {6}
    for scores, _ in found:
        assert sorted({*scores[:3]}) == [0.0, 0.5, 1.0]
        assert scores[1] == scores[3]
        assert scores[4] == 0.0, "a response without an answer"
    assert len({tuple(scores) for scores, _ in found}) > 1


def test_what_is_reported(tmp_path: Path) -> None:
    for name, greedy in (("before", 0.5), ("after", 0.7)):
        metrics = {"policy/greedy": greedy, "policy/sampled": 0.4, "critic/accuracy": 0.8, "best_of_8/majority": 0.6}
        estimates = {metric: {"value": value, "low": 0.0, "high": 1.0} for metric, value in metrics.items()}
        (tmp_path / name).write_text(json.dumps({"metrics": estimates}))
    found = policy_by_critic.paired(tmp_path / "before", tmp_path / "after")
    judge = {"critic_r1/judge/judgements": 20.0, "timing_s/step": 4.0}
    steps = [
        {"timing_s/step": 99.0},
        judge,
        judge | {"critic_r1/probe/accuracy": 0.9, "critic_r1/probe/agreement": 1.0},
    ]
    run = {"metrics": found, **policy_by_critic.costs(steps)}
    assert (run["judgements_per_step"], run["step_seconds"], run["unjudged"]) == (20.0, 4.0, None)
    assert run["probe"] == [{"step": 3, "critic_r1/probe/accuracy": 0.9, "critic_r1/probe/agreement": 1.0}]
    changes = over_seeds([run, run])
    assert changes["greedy_over_majority"]["mean_change"] == pytest.approx(0.1)
    told = policy_by_critic.table({"arms": {"frozen": {"runs": [run, run], "over_seeds": changes}}})
    assert (
        "| frozen | 2 | +20.0 [20.0, 20.0] | +0.0 [0.0, 0.0] | +10.0 [10.0, 10.0] | +0.0 [0.0, 0.0] | 20.0 | 4.0 |"
        in told
    )


def test_the_second_round_starts_where_the_first_one_ended() -> None:
    demo, folder = Path("demo"), Path("runs")
    first = policy_by_critic.start_of("frozen", demo, folder, 3)
    assert first == (demo / "model" / "trained", demo / "eval" / "after" / "eval.json")
    again = policy_by_critic.start_of("second", demo, folder, 3)
    assert again == (folder / "frozen-seed3" / "model", folder / "frozen-seed3" / "eval" / "eval.json")


def test_a_run_in_the_result_file_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, measured = tmp_path / "out.json", list[tuple[str, int]]()

    def measure(arm: str, demo: Path, *rest: Path, seed: int, steps: int) -> dict[str, Any]:
        measured.append((arm, seed))
        value = {"before": {"value": 0.5}, "after": {"value": 0.6}}
        metrics = dict.fromkeys(policy_by_critic.TABLE, value)
        return {"arm": arm, "seed": seed, "steps": steps, "metrics": metrics} | policy_by_critic.costs([{}])

    monkeypatch.setattr(policy_by_critic, "measured", measure)
    monkeypatch.setattr("subprocess.run", lambda *args, **options: None)
    for seeds, arms in (("3", "self"), ("3,5", "self,truth"), ("3,5", "self,truth")):
        policy_by_critic.main(seeds, arms, 7, tmp_path, tmp_path, out)
    assert measured == [("self", 3), ("truth", 3), ("self", 5), ("truth", 5)]
    kept = json.loads(out.read_text())["arms"]
    assert [run["seed"] for run in kept["self"]["runs"]] == [3, 5]
    assert kept["truth"]["over_seeds"]["policy/greedy"]["low"] == pytest.approx(0.1)
    with pytest.raises(typer.BadParameter, match="has runs of 7 steps, not 8"):
        policy_by_critic.main("3", "self", 8, tmp_path, tmp_path, out)
