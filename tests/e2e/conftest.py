"""What the end-to-end tests share: a tiny model, a few critic tasks, and a way to start a training run."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data_prep.sources import digits
from data_prep.tasks.ordering import preference_tasks
from data_prep.writer import write_parquet
from recipe.critic_r1.launch import processes
from tests import made_digits

MIN_PEARSON = 0.999
"""Least agreement of rollout and actor at random weights.

verl bans the two image placeholders in vLLM's sampler and not in the actor. A trained model gives them nothing; at
random weights they hold 0.5 % of the probability on average and up to 13 % at one token, which vLLM spreads over the
other tokens. This alone makes a correlation of 0.9999 to 0.99999, a mean difference of 4e-5 and a largest one of 4e-4
to 3e-3.
"""


@dataclass(frozen=True)
class Workshop:
    """A folder with a model and data."""

    model: Path
    train: Path
    policy: Path
    test: Path

    def overrides(self, run_dir: Path, **values: object) -> list[str]:
        """Hydra overrides of a small run of ``config/demo.yaml``; a dot in a key is written as two underscores."""
        small: dict[str, object] = {
            "critic_r1.run_dir": run_dir,
            "actor_rollout_ref.model.path": self.model,
            "data.train_files": self.train,
            "data.val_files": self.test,
            "data.train_batch_size": 8,
            "actor_rollout_ref.actor.ppo_mini_batch_size": 8,
            "actor_rollout_ref.rollout.n": 4,
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 32,
            "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": 32,
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 32,
            "critic_r1.rollout_agreement.min_pearson": MIN_PEARSON,
            "trainer.save_freq": 1,
            "trainer.logger": "[console]",
        }
        small |= {key.replace("__", "."): value for key, value in values.items()}
        return [f"{key}={value}" for key, value in small.items()]


@pytest.fixture(scope="session")
def workshop(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Random weights and some tasks: enough for the machinery, which is what is tested here.

    24 pairs in both orders for the critic, 16 plain questions for the policy.
    """
    folder = tmp_path_factory.mktemp("workshop")
    split = digits.digit_split(0, 0, 24, 4)
    tasks = [
        task
        for name, used in (("rl", "train"), ("test", "test"))
        for task in preference_tasks(
            made_digits.pairs(split[name]),
            split=used,
            orders="both",
            template="compact",
        )
    ]
    write_parquet(tasks, folder / "data")
    write_parquet(made_digits.questions(split["rl"][:16]), folder / "policy")
    return Workshop(
        model=tiny_model,
        train=folder / "data" / "train-00000.parquet",
        policy=folder / "policy" / "train-00000.parquet",
        test=folder / "data" / "test-00000.parquet",
    )


MARK = "CRITIC_R1_TEST_RUN"


def start(module: str, arguments: list[str], log: Path, on_tick: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Run ``python -m module`` to its end; returns its exit status and everything it printed.

    Its processes carry the name of the log file in their environment, so that `workers` finds no other run's.
    """
    status = processes.follow(
        [sys.executable, "-m", module, *arguments],
        log,
        on_line=lambda line: None,
        on_tick=on_tick,
        environment={MARK: str(log)},
    )
    return status, log.read_text(errors="replace")


def workers(title: str, log: Path) -> list[int]:
    """Process ids of the Ray workers with this title that `start` of this log started."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if command.startswith(title) and f"{MARK}={log}".encode() in environment.split(b"\0"):
            found.append(int(entry.name))
    return found


def matches_agree(samples: Sequence[dict[str, Any]]) -> None:
    """Both sides of a match have it, and a response's accuracy is the share that it won."""
    by_name = {(sample["step"], sample["uid"], sample["sample"]): sample for sample in samples}
    for (step, uid, _), sample in by_name.items():
        shares = [match["share"] for match in sample["matches"]]
        assert sample["acc"] == pytest.approx(sum(shares) / len(shares) if shares else 0.5)
        for match in (match for match in sample["matches"] if match["against"] >= 0):
            (back,) = [m for m in by_name[step, uid, match["against"]]["matches"] if m["against"] == sample["sample"]]
            assert back["share"] == 1 - match["share"]
            assert back["verdicts"] == match["verdicts"][::-1]
