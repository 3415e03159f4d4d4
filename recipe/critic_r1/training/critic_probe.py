"""Whether the model under training still judges as it did: held-out pairs, judged by it every few steps.

A policy that is rewarded by its own verdicts (`critic_r1.group_reward.judge=self`) changes its judge with every step: a
judge that comes to prefer what the policy writes no longer measures it. The probe asks the model on a rollout server
about a fixed set of labelled pairs. Its verdicts before the first step are those of the frozen critic; they are kept in
`train/probe.jsonl`, and later verdicts are compared with them and with the labels. The run stops when too few agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from data_prep.files import json_lines, write_json_lines
from data_prep.reading.inputs import expand_inputs
from recipe.critic_r1.judging.generation import Generator, Sampling
from recipe.critic_r1.judging.metrics import pairwise_metrics
from recipe.critic_r1.judging.openai_client import OpenAIGenerator
from recipe.critic_r1.judging.pairwise import Judgement, JudgeTask, judge, read_rows, task_from_row

PREFIX = "critic_r1/probe"
AGREEMENT = f"{PREFIX}/agreement"
LOGGED = ("accuracy", "swap_consistency", "position_bias", "parse_failures", "request_failures")
"""Of `judging.metrics.pairwise_metrics`."""


class CriticDrift(RuntimeError):
    """The critic in training no longer judges as the one that the run started from."""


@dataclass(frozen=True)
class ProbeSettings:
    """`critic_r1.probe` of the configuration.

    files: Parquet with critic rows that are in no training file.
    every: steps between two looks.
    rows: most rows that are judged; one row is a pair in one order.
    min_agreement: least share of verdicts that equal the frozen critic's; 0 never stops the run.
    max_tokens: longest verdict.
    """

    files: tuple[str, ...]
    every: int = 10
    rows: int = 128
    min_agreement: float = 0.7
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        if min(self.every, self.rows, self.max_tokens) < 1 or not 0 <= self.min_agreement <= 1:
            raise ValueError(
                f"critic_r1.probe: every, rows and max_tokens must be at least 1, min_agreement a share: got {self}"
            )

    @classmethod
    def of(cls, config: DictConfig) -> "ProbeSettings | None":
        """None when the run has no probe.

        Raises:
            ValueError: an option that is unknown or out of range.
        """
        given: Any = OmegaConf.to_container(OmegaConf.select(config, "critic_r1.probe") or OmegaConf.create({}))
        if not given.get("files"):
            return None
        files = [given["files"]] if isinstance(given["files"], str) else given["files"]
        if unknown := sorted(set(given) - set(cls.__dataclass_fields__)):
            raise ValueError(
                f"critic_r1.probe has no option {unknown[0]}; its options are {', '.join(cls.__dataclass_fields__)}"
            )
        return cls(**given | {"files": tuple(files)})

    def tasks(self) -> list[JudgeTask]:
        """The first `rows` critic rows of the files.

        Raises:
            ValueError: there is none, or one cannot be read; the message names it.
        """
        found: list[JudgeTask] = []
        for place, row in read_rows([Path(file) for file in expand_inputs(self.files)]):
            if str(row["data_source"]).startswith("critic/") and len(found) < self.rows:
                try:
                    found.append(task_from_row(row))
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"critic_r1.probe.files: {place}: {error}") from error
        if not found:
            raise ValueError(f"critic_r1.probe.files: no critic row in {', '.join(self.files)}")
        return found


class CriticProbe:
    """Judges the probe set and compares.

    Args:
        file: where the frozen critic's verdicts are kept.
        critic: the model under training; by default it is asked on a rollout server, see `at`.
    """

    def __init__(self, settings: ProbeSettings, file: Path, critic: Generator) -> None:
        self.settings, self._file, self._critic = settings, file, critic
        self._tasks = settings.tasks()

    @classmethod
    def at(cls, settings: ProbeSettings, file: Path, address: str) -> "CriticProbe":
        """A probe of the model on a rollout server, `host:port`."""
        import openai

        url = f"http://{address}/v1"
        with openai.OpenAI(base_url=url, api_key="EMPTY", max_retries=5) as client:
            model = client.models.list().data[0].id
        return cls(settings, file, OpenAIGenerator(model, url))

    def is_due(self, step: int, *, last: bool) -> bool:
        """Whether the set is judged after a step."""
        return last or step % self.settings.every == 0

    def look(self, step: int) -> dict[str, float]:
        """Judge the set; metrics under `critic_r1/probe/`. The run's first look records the frozen critic's verdicts.

        - ``agreement``: share of verdicts that equal the frozen critic's; an unreadable one equals an unreadable one
        - ``accuracy``, ``swap_consistency``, ``position_bias``, ``parse_failures``, ``request_failures``: as
          `critic-r1 judge` reports them

        Raises:
            ValueError: the recorded verdicts are of another probe set.
            RuntimeError: the first look got no answer to some request.
        """
        found = judge(self._critic, self._tasks, Sampling(max_tokens=self.settings.max_tokens))
        metrics = {
            f"{PREFIX}/{name}": estimate.value
            for name, estimate in pairwise_metrics(found).items()
            if name in LOGGED and estimate.value is not None
        }
        if not self._file.exists():
            self._record(step, found)
        frozen = self._recorded()
        same = [one.pred == frozen[one.task.pair_id, one.task.order] for one in found if one.answered]
        return metrics | ({AGREEMENT: sum(same) / len(same)} if same else {})

    def _record(self, step: int, found: Sequence[Judgement]) -> None:
        if failed := [one.error for one in found if not one.answered]:
            raise RuntimeError(f"the frozen critic did not answer {len(failed)} of {len(found)} probes: {failed[0]}")
        lines = ({"step": step, "pair_id": j.task.pair_id, "order": j.task.order, "pred": j.pred} for j in found)
        write_json_lines(self._file, lines)

    def _recorded(self) -> dict[tuple[str, int], str | None]:
        remedy = "start a new run folder, or give the critic_r1.probe that the run began with"
        try:
            lines = [line.value for line in json_lines(self._file)]
            frozen = {(line["pair_id"], line["order"]): line["pred"] for line in lines}
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self._file} is damaged ({error!r}): {remedy}") from error
        if set(frozen) != {(task.pair_id, task.order) for task in self._tasks}:
            raise ValueError(f"{self._file} has the verdicts of another probe set: {remedy}")
        return frozen

    def check(self, metrics: dict[str, Any], step: int) -> None:
        """Stop a run whose critic has drifted.

        Raises:
            CriticDrift: the agreement of this step's look is too low.
        """
        agreement, least = metrics.get(AGREEMENT), self.settings.min_agreement
        if agreement is not None and agreement < least:
            raise CriticDrift(
                f"step {step}: the critic agrees with the one that the run started from in {agreement:.1%} of the "
                f"probes, less than critic_r1.probe.min_agreement={least:g}; its accuracy on their labels is "
                f"{metrics.get(f'{PREFIX}/accuracy', float('nan')):.1%}. What it pays for has changed: take an earlier "
                "checkpoint, mix critic rows into data.train_files, or judge with a frozen critic"
            )
