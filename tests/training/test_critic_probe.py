"""The probe of a critic that is in training: what it measures, keeps and stops."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from data_prep.sources import digits
from data_prep.tasks.ordering import preference_tasks
from data_prep.writer import write_parquet
from recipe.critic_r1.judging.generation import Generation, GenerationRequest, TextPart
from recipe.critic_r1.training.critic_probe import AGREEMENT, CriticDrift, CriticProbe, ProbeSettings
from tests import made_digits
from tests.training.test_group_reward import RolloutServer

PAIRS = 4


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four pairs in both orders, after a question that is not one."""
    folder = tmp_path_factory.mktemp("probe")
    indices = digits.digit_split(0, 0, PAIRS, 0)["rl"]
    write_parquet(made_digits.questions(indices, "test"), folder / "policy")
    write_parquet(preference_tasks(made_digits.pairs(indices), orders="both", template="compact"), folder / "critic")
    return str(folder)


class Critic:
    """A generator whose verdict on the n-th row is `says(n)`; an error where that is empty."""

    def __init__(self, says: Callable[[int], object]) -> None:
        self.says = says

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        assert all(any(isinstance(part, TextPart) for part in r.messages[0].parts) for r in requests)
        verdicts = [self.says(n) for n in range(len(requests))]
        return [Generation((f"\\boxed{{{v}}}",)) if v else Generation((), error="gone") for v in verdicts]


def probe(data: str, folder: Path, says: Callable[[int], object] = lambda n: 1, **options: Any) -> CriticProbe:
    return CriticProbe(ProbeSettings((data,), **options), folder / "probe.jsonl", Critic(says))


def test_later_verdicts_are_compared_with_those_before_the_first_step(rows: str, tmp_path: Path) -> None:
    first = probe(rows, tmp_path).look(0)
    assert first[AGREEMENT] == 1.0
    assert (first["critic_r1/probe/accuracy"], first["critic_r1/probe/swap_consistency"]) == (0.5, 0.0)
    kept = (tmp_path / "probe.jsonl").read_bytes()
    # Three of eight verdicts are others: two are turned, one cannot be read.
    later = probe(rows, tmp_path, lambda n: 2 if n < 2 else "?" if n == 2 else 1).look(10)
    assert later[AGREEMENT] == 5 / 8
    assert later["critic_r1/probe/parse_failures"] == 1 / 8
    assert (tmp_path / "probe.jsonl").read_bytes() == kept, "a resumed run has the same frozen critic"


def test_what_was_not_answered_is_no_drift(rows: str, tmp_path: Path) -> None:
    probe(rows, tmp_path).look(0)
    found = probe(rows, tmp_path, lambda n: 1 if n else "").look(1)
    assert (found[AGREEMENT], found["critic_r1/probe/request_failures"]) == (1.0, 1 / 8)
    assert AGREEMENT not in probe(rows, tmp_path, lambda n: "").look(2)


@pytest.mark.parametrize(
    ("options", "says", "error", "said"),
    [
        ({}, lambda n: "", RuntimeError, "did not answer 8 of 8 probes: gone"),
        ({"rows": 6}, lambda n: 1, ValueError, "verdicts of another probe set: start a new run folder"),
    ],
)
def test_a_baseline_that_cannot_serve_is_refused(
    options: dict[str, Any], says: Callable[[int], object], error: type[Exception], said: str, rows: str, tmp_path: Path
) -> None:
    if options:
        probe(rows, tmp_path).look(0)
    with pytest.raises(error, match=said):
        probe(rows, tmp_path, says, **options).look(0)


@pytest.mark.parametrize("line", ["{", "[1]", json.dumps({"pair_id": "x"})])
def test_a_damaged_record_is_named(line: str, rows: str, tmp_path: Path) -> None:
    (tmp_path / "probe.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"probe\.jsonl is damaged .* start a new run folder"):
        probe(rows, tmp_path).look(1)


@pytest.mark.parametrize(
    ("agreement", "least", "stops"), [(0.6, 0.7, True), (0.7, 0.7, False), (0.0, 0.0, False), (None, 0.7, False)]
)
def test_a_critic_that_drifts_stops_the_run(
    agreement: float | None, least: float, stops: bool, rows: str, tmp_path: Path
) -> None:
    checked = probe(rows, tmp_path, min_agreement=least)
    metrics = {} if agreement is None else {AGREEMENT: agreement, "critic_r1/probe/accuracy": 0.55}
    if not stops:
        checked.check(metrics, 20)
        return
    with pytest.raises(CriticDrift, match=r"step 20: .* 60\.0% of the probes, .*min_agreement=0\.7.* 55\.0%"):
        checked.check(metrics, 20)


@pytest.mark.parametrize(("step", "last", "due"), [(3, False, True), (4, False, False), (4, True, True)])
def test_when_it_looks(step: int, last: bool, due: bool, rows: str, tmp_path: Path) -> None:
    assert probe(rows, tmp_path, every=3).is_due(step, last=last) == due


def test_settings(rows: str) -> None:
    def of(**given: Any) -> ProbeSettings | None:
        return ProbeSettings.of(OmegaConf.create({"critic_r1": {"probe": given}}))

    assert of(files=None) is None
    assert ProbeSettings.of(OmegaConf.create({"critic_r1": {}})) is None
    assert of(files=[rows], every=2) == ProbeSettings((rows,), every=2) != of(files=rows)
    assert len(ProbeSettings((rows,)).tasks()) == 2 * PAIRS
    assert len(ProbeSettings((rows,), rows=3).tasks()) == 3


def test_the_critic_is_asked_on_a_rollout_server(rows: str, tmp_path: Path) -> None:
    with RolloutServer() as server:
        found = CriticProbe.at(ProbeSettings((rows,)), tmp_path / "probe.jsonl", f"127.0.0.1:{server.port}").look(0)
        assert [body["model"] for body in server.bodies] == ["listed"] * 2 * PAIRS
    assert found["critic_r1/probe/request_failures"] == 0


def test_the_trainer_looks_after_the_weights_are_synchronised(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

    from recipe.critic_r1.training.trainer import CriticTrainerSync

    order: list[object] = []
    monkeypatch.setattr(PPOTrainerSync, "on_step_end", lambda self: order.append("weights"))
    trainer = object.__new__(CriticTrainerSync)
    trainer.timing_raw, trainer.total_training_steps = {}, 5

    def is_due(step: int, *, last: bool) -> bool:
        order.append((step, last))
        return True

    trainer._probe = SimpleNamespace(is_due=is_due, look=lambda step: {"seen": float(step)})  # type: ignore[assignment]
    for step in (4, 5):
        trainer.global_steps = step
        trainer.on_step_end()
    assert order == ["weights", (4, False), "weights", (5, True)]
    assert trainer._probed == {"seen": 5.0}
