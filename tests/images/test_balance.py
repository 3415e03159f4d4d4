"""Rollouts of a prompt stay on one rank, and the ranks stay balanced."""

import numpy as np
import pytest

from recipe.critic_r1.images.balance import by_prompt


def made(prompts: int, n: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Rollouts in verl's order after its own balancing: mixed."""
    draw = np.random.default_rng(seed)
    images = draw.integers(200, 5000, prompts)
    rows = [(f"u_{p}_{i}_0", int(images[p] + draw.integers(50, 2000))) for p in range(prompts) for i in range(n)]
    rows = [rows[i] for i in draw.permutation(len(rows))]
    return [key for key, _ in rows], [length for _, length in rows]


@pytest.mark.parametrize(("prompts", "n", "ranks"), [(256, 8, 8), (32, 4, 16), (6, 1, 2), (4, 3, 4)])
def test_every_rank_gets_whole_prompts(prompts: int, n: int, ranks: int) -> None:
    keys, lengths = made(prompts, n)
    order = by_prompt(keys, lengths, ranks)
    assert order is not None
    assert sorted(order) == list(range(prompts * n))
    share = len(order) // ranks
    shares = [[keys[i].rsplit("_", 2)[0] for i in order[r * share : (r + 1) * share]] for r in range(ranks)]
    assert sum(len(set(found)) for found in shares) == prompts
    # Side by side, so that a micro-batch shows few different images.
    assert all(len(set(found[at : at + n])) == 1 for found in shares for at in range(0, share, n))


def test_ranks_get_nearly_the_same_number_of_tokens() -> None:
    keys, lengths = made(256, 8)
    order = by_prompt(keys, lengths, 8)
    assert order is not None
    tokens = [sum(lengths[i] for i in order[r * 256 : (r + 1) * 256]) for r in range(8)]
    assert max(tokens) < 1.03 * min(tokens)


def test_a_prompt_that_is_computed_once_counts_once() -> None:
    """Two long prompts with short responses weigh less than two short prompts with long ones."""
    sizes = {"a": (900, 10), "b": (900, 10), "c": (100, 300), "d": (100, 300)}
    keys = [f"{name}_{i}_0" for name in sizes for i in range(8)]
    prompts, responses = zip(*(sizes[key[0]] for key in keys), strict=True)
    lengths = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    order = by_prompt(keys, lengths, 2, prompts)
    assert order is not None
    for rank in (order[:16], order[16:]):
        assert len({keys[i][0] for i in rank} & {"a", "b"}) == 1


@pytest.mark.parametrize(
    ("keys", "ranks"),
    [
        (["a_0_0", "a_1_0", "b_0_0", "b_1_0"], 1),  # nothing to share out
        (["a_0_0", "a_1_0", "b_0_0", "b_1_0", "c_0_0", "c_1_0"], 2),  # three prompts for two ranks
        (["a_0_0", "a_1_0", "b_0_0", "pad_0_0"], 2),  # a rollout is missing, verl padded
    ],
)
def test_otherwise_the_order_is_left_to_verl(keys: list[str], ranks: int) -> None:
    assert by_prompt(keys, [10] * len(keys), ranks) is None
