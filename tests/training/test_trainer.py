"""The trainer's own decisions, without a run; the run itself is in tests/e2e."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from recipe.critic_r1.images.prompt_path import PROMPT_PATH
from recipe.critic_r1.launch.watchdog import ActorWatchdog, WorkerDied
from recipe.critic_r1.training.trainer import AGREEMENT, SCORED_FIELDS, CriticTrainerSync, RolloutDisagreement

STRICT = object.__new__(CriticTrainerSync)
STRICT.config = OmegaConf.create({"critic_r1": {"rollout_agreement": {"min_pearson": 0.9999}}})


@pytest.mark.parametrize("pearson", [0.9998, 0.5, -1.0])
def test_a_rollout_engine_with_other_weights_stops_the_run(pearson: float) -> None:
    with pytest.raises(RolloutDisagreement, match=r"step 3: .*min_pearson=0\.9999.*requirements/"):
        STRICT._check_agreement({AGREEMENT: pearson}, 3)


@pytest.mark.parametrize("metrics", [{AGREEMENT: 0.99995}, {}])
def test_agreement_or_no_measurement_goes_on(metrics: dict[str, float]) -> None:
    STRICT._check_agreement(metrics, 3)


def test_it_is_registered_under_its_name() -> None:
    from verl.trainer.ppo.v1.trainer_base import get_trainer_cls

    assert get_trainer_cls("critic_sync") is CriticTrainerSync


@pytest.mark.parametrize(("strategy", "fetched"), [("fsdp2", SCORED_FIELDS), ("megatron", None)])
@pytest.mark.parametrize("name", ["_compute_old_log_prob", "_compute_ref_log_prob"])
def test_a_pass_for_log_probabilities_fetches_what_the_engine_reads(
    strategy: str, fetched: list[str] | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(PPOTrainerSync, name, lambda self, batch, metrics: seen.append(batch.fields))
    trainer = object.__new__(CriticTrainerSync)
    settings = {"critic_r1": {"prompt_path": "once"}, "actor_rollout_ref": {"actor": {"strategy": strategy}}}
    trainer.config = OmegaConf.create(settings)
    batch = KVBatchMeta(keys=["a"], tags=[{}])
    getattr(trainer, name)(batch, {})
    assert seen == [fetched]
    assert batch.fields is None  # what comes after it fetches as before


@pytest.mark.parametrize("path", ["once", "stock"])
@pytest.mark.parametrize("name", ["_compute_old_log_prob", "_compute_ref_log_prob", "_update_actor"])
def test_every_pass_tells_the_engine_how_prompts_are_computed(
    name: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(PPOTrainerSync, name, lambda self, batch, metrics: seen.append(batch.extra_info[PROMPT_PATH]))
    trainer = object.__new__(CriticTrainerSync)
    settings = {"critic_r1": {"prompt_path": path}, "actor_rollout_ref": {"actor": {"strategy": "fsdp2"}}}
    trainer.config = OmegaConf.create(settings)
    getattr(trainer, name)(KVBatchMeta(keys=["a"], tags=[{}]), {})
    assert seen == [path]


@pytest.fixture
def two_actors() -> Iterator[list[Any]]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)

    class Worker:
        def busy(self) -> None:
            time.sleep(60)

    worker = ray.remote(num_cpus=0)(Worker)
    yield [worker.remote(), worker.remote()]
    ray.shutdown()


def test_the_watchdog_names_a_dead_actor_and_leaves_a_busy_one_alone(two_actors: list[Any]) -> None:
    alive, dead = two_actors
    ray.get([alive.__ray_ready__.remote(), dead.__ray_ready__.remote()])
    watchdog = ActorWatchdog({"rollout worker": two_actors}, every_seconds=0.0)
    alive.busy.remote()
    for _ in range(3):
        watchdog.look()
    ray.kill(dead)

    def looks() -> None:
        for _ in range(200):
            watchdog.look()
            time.sleep(0.05)

    with pytest.raises(WorkerDied, match="rollout worker 1 died"):
        looks()
