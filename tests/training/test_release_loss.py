"""Where r1_release differs from r1, and what verl makes of the difference, in numbers."""

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import agg_loss, compute_policy_loss_vanilla, get_policy_loss_fn
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.torch_functional import get_constant_schedule_with_warmup

from recipe.critic_r1.training.release_loss import NAME, release_loss
from tests.config.test_configs import composed

RANKS, MICRO_BATCHES, ROWS, TOKENS = 2, 2, 4, 6
LENGTHS = torch.tensor([[[6, 6, 5, 6], [1, 2, 1, 1]], [[3, 1, 6, 2], [4, 0, 0, 1]]])
"""Response tokens of each row of each micro-batch of each rank."""


def mini_batch() -> tuple[torch.Tensor, ...]:
    """Log-probabilities (old, new), advantages and masks, (ranks, micro-batches, rows, tokens)."""
    draw = torch.Generator().manual_seed(0)
    shape = (RANKS, MICRO_BATCHES, ROWS, TOKENS)
    old = -torch.rand(shape, generator=draw)
    new = old + 0.3 * torch.randn(shape, generator=draw)
    advantages = torch.randn(shape, generator=draw)
    mask = torch.arange(TOKENS) < LENGTHS[..., None]
    return old, new, advantages, mask


def losses(loss: Any) -> tuple[float, float]:
    """What verl's engine minimises, mean over ranks of the sum over micro-batches: policy loss, and a mean like KL."""
    config = omega_conf_to_dataclass(composed("r1_release").actor_rollout_ref.actor)
    old, new, advantages, mask = mini_batch()
    policy, kl = 0.0, 0.0
    for rank in range(RANKS):
        for i in range(MICRO_BATCHES):
            # As verl.workers.utils.losses.ppo_loss sets it for each micro-batch.
            config.global_batch_info.update(
                dp_size=RANKS,
                batch_num_tokens=int(mask.sum()),
                global_batch_size=RANKS * MICRO_BATCHES * ROWS,
                loss_scale_factor=None,
            )
            part = (rank, i)
            policy += float(loss(old[part], new[part], advantages[part], mask[part], "token-mean", config)[0]) / RANKS
            terms = agg_loss((new - old)[part].abs(), mask[part], "token-mean", **config.global_batch_info)
            kl += float(terms) / RANKS
    return policy, kl


def clipped(old: torch.Tensor, new: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """PPO's objective for each token, with the release's bounds."""
    ratio = (new - old).exp()
    worst = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.3))
    return torch.where(advantages < 0, torch.minimum(worst, -3.0 * advantages), worst)


def test_the_release_takes_the_mean_of_the_micro_batches_means() -> None:
    old, new, advantages, mask = mini_batch()

    def mean_of_means(values: torch.Tensor) -> float:
        return float(((values * mask).sum((-1, -2)) / mask.sum((-1, -2))).mean())

    policy, kl = losses(release_loss)
    assert policy == pytest.approx(mean_of_means(clipped(old, new, advantages)), rel=1e-6)
    assert kl == pytest.approx(mean_of_means((new - old).abs()), rel=1e-6)


def test_verl_takes_one_mean_over_all_tokens() -> None:
    old, new, advantages, mask = mini_batch()
    policy, kl = losses(compute_policy_loss_vanilla)
    assert policy == pytest.approx(float(clipped(old, new, advantages)[mask].mean()), rel=1e-6)
    assert kl == pytest.approx(float((new - old).abs()[mask].mean()), rel=1e-6)
    assert policy != pytest.approx(losses(release_loss)[0], rel=0.05)


def test_a_micro_batch_without_tokens_adds_nothing() -> None:
    config = omega_conf_to_dataclass(composed("r1_release").actor_rollout_ref.actor)
    config.global_batch_info.update(dp_size=1, batch_num_tokens=5, global_batch_size=2, loss_scale_factor=None)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    loss, _ = release_loss(torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, 3), nothing, "token-mean", config)
    assert float(loss) == 0.0


def test_another_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="seq-mean-token-sum"):
        release_loss(*[torch.zeros(1, 1)] * 4, "seq-mean-token-sum")


@pytest.mark.parametrize(("name", "rates"), [("r1", [1.0, 1.0, 1.0]), ("r1_release", [0.0, 1.0, 1.0])])
def test_the_first_step_of_the_release_has_no_rate(name: str, rates: list[float]) -> None:
    optim = composed(name).actor_rollout_ref.actor.optim
    # As verl's engine: the ratio counts where the number of steps is not given.
    steps = optim.lr_warmup_steps if optim.lr_warmup_steps > 0 else int(optim.lr_warmup_steps_ratio * 100)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_constant_schedule_with_warmup(optimizer, steps)
    found = []
    for _ in rates:
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert found == rates


def flat(config: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{path}.{key}" if path else str(key))
        else:
            found[path] = node

    walk(OmegaConf.to_container(config, resolve=True), "")
    return found


def test_r1_release_differs_from_r1_in_what_the_page_lists() -> None:
    ours, theirs = flat(composed("r1")), flat(composed("r1_release"))
    rollout = "actor_rollout_ref.rollout"
    assert {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)} == {
        "actor_rollout_ref.actor.optim.lr_warmup_steps",
        "actor_rollout_ref.actor.policy_loss.loss_mode",
        f"{rollout}.engine_kwargs.vllm.limit_mm_per_prompt.image",
        f"{rollout}.val_kwargs.do_sample",
        f"{rollout}.val_kwargs.temperature",
        "reward.custom_reward_function.reward_kwargs.release_compatible",
        "trainer.experiment_name",
        "trainer.default_local_dir",
        "actor_rollout_ref.rollout.trace.experiment_name",
        "critic_r1.run_dir",
        "trainer.max_actor_ckpt_to_keep",
        "trainer.test_freq",
        "trainer.val_before_train",
    }
    assert get_policy_loss_fn(NAME) is release_loss
