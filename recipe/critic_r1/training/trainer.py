"""Trainer mode ``critic_sync``: verl's synchronous trainer plus critic metrics and a sample log that survive a resume.

Order matters for the logs. verl saves a checkpoint in the middle of a step and logs the step's metrics after it, so a
process killed in between has a checkpoint whose last step nobody logged; and steps after the last checkpoint are run
and logged a second time on resume. Here a step's lines are written first and the checkpoint after them, and a resumed
run first cuts both logs back to the step of its checkpoint. Every step is then in them exactly once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
from tensordict import TensorDict
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.debug import marked_timer
from verl.utils.seqlen_balancing import log_seqlen_unbalance
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry

from recipe.critic_r1 import compat
from recipe.critic_r1.compat.pinned_sources import (
    PROMPT_FUNCTIONS,
    PROMPT_REMEDY,
    TRAINER_FUNCTIONS,
    TRAINER_REMEDY,
)
from recipe.critic_r1.images.balance import by_prompt
from recipe.critic_r1.images.prompt_path import ONCE, PROMPT_PATH
from recipe.critic_r1.launch.watchdog import ActorWatchdog
from recipe.critic_r1.rollout.agent_loop import SHARED
from recipe.critic_r1.rollout.cache_metrics import ImageCacheRate
from recipe.critic_r1.training import checkpoints
from recipe.critic_r1.training.critic_probe import CriticProbe, ProbeSettings
from recipe.critic_r1.training.group_reward import use_rollout_servers
from recipe.critic_r1.training.judge_settings import asks_the_policy
from recipe.critic_r1.training.run_log import RunLog
from recipe.critic_r1.training.sampler import PairedSampler
from recipe.critic_r1.training.step_metrics import Rollout, critic_metrics
from reward_fns.swap_consistency import adjust

AGREEMENT = "training/rollout_actor_probs_pearson_corr"
"""verl's metric: Pearson's correlation of the sampled tokens' probabilities in rollout engine and actor."""

SCORED_FIELDS = ["input_ids", "prompts", "position_ids", "loss_mask", "multi_modal_inputs"]
"""What the FSDP engine reads of a rollout to compute its tokens' log-probabilities."""


def _group_replica() -> type[RolloutReplica]:
    from recipe.critic_r1.rollout.server import GroupReplica  # imports vLLM

    return GroupReplica


class RolloutDisagreement(RuntimeError):
    """The rollout engine does not run the actor's policy."""


@register_trainer("critic_sync")
class CriticTrainerSync(PPOTrainerSync):  # type: ignore[misc]
    """`PPOTrainerSync` with critic metrics, a per-sample log, and a check that rollout and actor agree."""

    def __init__(self, config: Any) -> None:
        compat.check_sources(TRAINER_FUNCTIONS, TRAINER_REMEDY)
        self._watchdog: ActorWatchdog | None = None
        if config.critic_r1.image_path == SHARED:
            RolloutReplicaRegistry.register("vllm", _group_replica)
        if config.critic_r1.prompt_path == ONCE:
            compat.check_sources(PROMPT_FUNCTIONS, PROMPT_REMEDY)
        super().__init__(config)
        self._log = RunLog(Path(config.critic_r1.run_dir) / "train", samples=config.critic_r1.log_samples)
        self._checkpoint_due = False
        self._probe_settings = ProbeSettings.of(config)
        self._probe: CriticProbe | None = None
        self._probed: dict[str, float] = {}

    # verl compares this name with "sync" to choose between its synchronous and asynchronous code paths.
    @property
    def trainer_mode(self) -> str:
        return "sync"

    @trainer_mode.setter
    def trainer_mode(self, name: str) -> None:
        if name != "critic_sync":
            raise ValueError(f"CriticTrainerSync is trainer mode critic_sync, not {name!r}")

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()
        compat.poll(buffer, self.config.critic_r1.poll_interval_seconds, self._look_at_actors)
        return buffer

    def _look_at_actors(self) -> None:
        if self._watchdog is not None:
            self._watchdog.look()

    def fit(self, agent_loop_manager: Any) -> None:
        servers = [server for replica in self.llm_server_manager.get_replicas() for server in replica.servers]
        self._watchdog = ActorWatchdog(
            {
                "agent-loop worker": agent_loop_manager.agent_loop_workers,
                "reward worker": self.reward_loop_manager.reward_loop_workers,
                "rollout server": servers,
            }
        )
        addresses = self.llm_server_manager.get_addresses()
        if asks_the_policy(self.config):
            workers = self.reward_loop_manager.reward_loop_workers
            # verl starts the reward workers before the rollout servers.
            ray.get([worker.__ray_call__.remote(use_rollout_servers, addresses) for worker in workers])
        if self._probe_settings is not None:
            self._probe = CriticProbe.at(self._probe_settings, self._log.folder / "probe.jsonl", addresses[0])
            self._probe.look(self.global_steps)
        counted = not self.config.actor_rollout_ref.rollout.disable_log_stats
        self._image_cache = ImageCacheRate(addresses if counted else [])
        super().fit(agent_loop_manager)

    def on_step_end(self) -> None:
        super().on_step_end()  # the rollout servers have the step's weights from here on
        if self._probe is not None and self._probe.is_due(
            self.global_steps, last=self.global_steps >= self.total_training_steps
        ):
            with marked_timer("probe", self.timing_raw):
                self._probed = self._probe.look(self.global_steps)

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        if self._swap_weight > 0 and self.config.data.shuffle:
            stock: Any = vars(self)["train_dataloader"]
            pair_ids = [info["pair_id"] for info in self.train_dataset.dataframe["extra_info"]]
            self.train_dataloader = StatefulDataLoader(
                dataset=self.train_dataset,
                batch_size=stock.batch_size,
                num_workers=stock.num_workers,
                drop_last=True,
                collate_fn=stock.collate_fn,
                sampler=PairedSampler(pair_ids, seed=self.config.data.seed or 0),
            )

    def _balance_batch(
        self, batch: Any, metrics: dict[str, Any], logging_prefix: str = "global_seqlen", **kwargs: Any
    ) -> Any:
        batch = super()._balance_batch(batch, metrics, logging_prefix, **kwargs)
        ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
        lengths = [tag["seq_len"] for tag in batch.tags]
        settings, order = self.config.critic_r1, None
        if settings.prompt_path == ONCE:
            order = by_prompt(batch.keys, lengths, ranks, [tag["prompt_len"] for tag in batch.tags])
        elif settings.image_path == SHARED:
            order = by_prompt(batch.keys, lengths, ranks)
        if order is not None:
            batch.reorder(order)
            share = len(order) // ranks
            parts = [order[rank * share : (rank + 1) * share] for rank in range(ranks)]
            metrics.update(log_seqlen_unbalance(seqlen_list=lengths, partitions=parts, prefix=logging_prefix))
        return batch

    def _compute_old_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
        with self._scored_fields(batch):
            return super()._compute_old_log_prob(batch, metrics)

    def _compute_ref_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
        with self._scored_fields(batch):
            return super()._compute_ref_log_prob(batch, metrics)

    @contextmanager
    def _scored_fields(self, batch: Any) -> Iterator[None]:
        """Let training workers fetch only the columns that they read."""
        batch.extra_info[PROMPT_PATH] = self.config.critic_r1.prompt_path
        before = batch.fields
        if self.config.actor_rollout_ref.actor.strategy in ("fsdp", "fsdp2"):
            batch.fields = SCORED_FIELDS
        try:
            yield
        finally:
            batch.fields = before

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch.extra_info[PROMPT_PATH] = self.config.critic_r1.prompt_path
        return super()._update_actor(batch, metrics)

    @property
    def _swap_weight(self) -> float:
        return float(self.config.critic_r1.swap_consistency.weight)

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        if self._swap_weight > 0:
            metrics.update(self._adjust_for_swap_consistency(batch))
        return super()._compute_advantage(batch, metrics)

    def _adjust_for_swap_consistency(self, batch: Any) -> dict[str, float]:
        """Change the rewards of critic rollouts whose pair is in the batch in both orders; returns its metrics."""
        rollouts = [rollout for rollout in self._read_rollouts(batch) if rollout.data_source.startswith("critic/")]
        if not rollouts:
            return {}
        settings = self.config.critic_r1.swap_consistency
        scores = [float(rollout.reward["score"]) for rollout in rollouts]
        found = adjust(
            [str(rollout.extra_info["pair_id"]) for rollout in rollouts],
            [int(rollout.extra_info["order"]) for rollout in rollouts],
            [str(rollout.reward["pred"]) for rollout in rollouts],
            [rollout.ground_truth for rollout in rollouts],
            scores,
            weight=self._swap_weight,
            mode=settings.mode,
            only_right=settings.only_right,
        )
        changes = [after - before for after, before in zip(found.scores, scores, strict=True)]
        keys = [rollout.key for rollout in rollouts]
        rewards = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["rm_scores"])["rm_scores"]
        # A rollout's reward is on its last token.
        adjusted = [
            torch.cat([row[:-1], row[-1:] + change]) for row, change in zip(rewards.unbind(), changes, strict=True)
        ]
        fields = TensorDict({"rm_scores": torch.nested.as_nested_tensor(adjusted, layout=torch.jagged)}, len(keys))
        tq.kv_batch_put(keys=keys, partition_id=batch.partition_id, fields=fields)
        return {f"critic_r1/swap_consistency/{name}": value for name, value in found.metrics.items()}

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        self._log.resume_after(self.global_steps)
        checkpoints.forget_after(Path(self.config.trainer.default_local_dir), self.global_steps)

    def _save_checkpoint(self) -> None:
        self._checkpoint_due = True  # written by `_compute_metrics`, after the step's lines

    def _compute_metrics(
        self, batch: Any, metrics: dict[str, Any], timing_raw: dict[str, Any], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps=global_steps, epoch=epoch)
        rollouts = self._read_rollouts(batch)
        metrics.update(critic_metrics(rollouts))
        probed, self._probed = self._probed, {}
        metrics.update(probed)
        if (rate := self._image_cache.since_last()) is not None:
            metrics["critic_r1/rollout/image_cache_hit_rate"] = rate
        self._log.write(global_steps, metrics, rollouts)
        self._check_agreement(metrics, global_steps)
        if self._checkpoint_due:
            self._checkpoint_due = False
            super()._save_checkpoint()
            if kept := checkpoints.keep_best(Path(self.config.trainer.default_local_dir), global_steps, metrics):
                print(f"critic-r1: step {kept.step} is the best so far, held-out accuracy {kept.accuracy:.4f}")
        if self._probe is not None:
            self._probe.check(probed, global_steps)

    def _read_rollouts(self, batch: Any) -> list[Rollout]:
        real = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
        fields = ["raw_prompt", "responses", "data_source", "reward_model", "extra_info", "extra_fields"]
        data = tq.kv_batch_get(keys=real, partition_id=batch.partition_id, select_fields=fields)
        columns = {name: list(data[name]) for name in fields if name != "responses"}
        responses = data["responses"].unbind()
        rollouts = []
        for i, key in enumerate(real):
            uid, sample, _ = key.rsplit("_", 2)
            rollouts.append(
                Rollout(
                    key=key,
                    uid=uid,
                    sample=int(sample),
                    data_source=str(_plain(columns["data_source"][i])),
                    prompt=_prompt_text(_plain(columns["raw_prompt"][i])),
                    response=self.tokenizer.decode(responses[i], skip_special_tokens=True),
                    response_tokens=int(responses[i].numel()),
                    ground_truth=_plain(columns["reward_model"][i])["ground_truth"],
                    extra_info=dict(_plain(columns["extra_info"][i])),
                    reward=dict(_plain(columns["extra_fields"][i]).get("reward_extra_info", {})),
                )
            )
        return sorted(rollouts, key=lambda rollout: (rollout.uid, rollout.sample))

    def _check_agreement(self, metrics: dict[str, Any], step: int) -> None:
        pearson, least = metrics.get(AGREEMENT), self.config.critic_r1.rollout_agreement.min_pearson
        if pearson is None or pearson >= least:
            return
        raise RolloutDisagreement(
            f"step {step}: the probabilities of the sampled tokens in the rollout engine and in the actor correlate "
            f"with {pearson:.6f}, less than critic_r1.rollout_agreement.min_pearson={least}. The rollout engine does "
            "not run the actor's weights, or not on the same image. Check that vLLM, torch and transformers are the "
            "versions of requirements/, and that rollout and actor use the same dtype, before training on."
        )


def _plain(value: Any) -> Any:
    """The value inside a TensorDict wrapper."""
    return value.data if hasattr(value, "data") and type(value).__module__.startswith("tensordict") else value


def _prompt_text(messages: Any) -> str:
    """The chat messages as text, an image as ``<image>``."""
    parts = []
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            parts.append(content)
        else:
            parts.append("".join(item["text"] if item.get("type") == "text" else "<image>" for item in content))
    return "\n".join(parts)
