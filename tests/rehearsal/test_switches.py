"""Every switch of the GPU configurations trains as the padded float32 path does, on two ranks of verl's own workers."""

import pytest

from recipe.critic_r1.rehearsal.switches import Agreement, Case, compare, covering, every

EXACT = {"fp32": (2e-5, 2e-4, 1e-4), "bf16": (0.15, 0.1, 0.02)}
"""Largest difference of log-probabilities, relative difference of losses and of gradient norms. bf16 keeps 8 bits."""


@pytest.fixture(scope="module")
def agreements(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Agreement]:
    return compare(covering(), tmp_path_factory.mktemp("switches"))


@pytest.mark.slow
@pytest.mark.parametrize("case", covering(), ids=lambda case: case.name)
def test_losses_are_those_of_the_padded_path(case: Case, agreements: dict[Case, Agreement]) -> None:
    found = agreements[case]
    assert not found.error, found.error
    log_probs, loss, grad_norm = EXACT[case.precision]
    assert found.log_probs <= log_probs, found
    assert found.loss <= loss, found
    assert found.grad_norm <= grad_norm, found


def test_the_sample_covers_every_switch() -> None:
    for field in ("config", "cluster", "tuning", "precision"):
        expected = {"r1_plus"} if field == "config" else set()  # r1_plus is r1 on another checkpoint, at another rate
        assert {getattr(case, field) for case in every()} - {getattr(case, field) for case in covering()} == expected
