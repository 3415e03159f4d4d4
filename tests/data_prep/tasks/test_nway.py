"""N responses in one prompt: the label that names the best, the label that ranks them all, and what they pay."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.checks.rows import row_problems
from data_prep.settings import Settings
from data_prep.sources.registry import load_source
from data_prep.tasks.nway import RankedResponses, RankTask
from data_prep.transform import Transform
from reward_fns import mixed, nway
from tests.data_prep.made_images import make_image
from tests.data_prep.made_records import GOOD


def task(ranks: tuple[float, ...], shown: tuple[int, ...], *, ranking: bool) -> RankTask:
    responses = tuple(f"answer {i}" for i in range(len(ranks)))
    return RankTask(RankedResponses("made", (), "Which?", responses, ranks), shown, ranking=ranking)


@pytest.mark.parametrize(
    ("ranks", "shown", "best", "ranking"),
    [
        ((1, 2), (0, 1), "1", "1 > 2"),
        ((1, 2), (1, 0), "2", "2 > 1"),
        ((2, 1, 2), (0, 1, 2), "2", "2 > 1 = 3"),
        ((2, 2, 1), (2, 0, 1), "1", "1 > 2 = 3"),
        ((-0.5, -8.0, -3.0, -8.5), (3, 2, 1, 0), "1", "1 > 3 > 2 > 4"),
        (tuple(range(16)), tuple(reversed(range(16))), "16", " > ".join(str(n) for n in range(16, 0, -1))),
    ],
)
def test_labels(ranks: tuple[float, ...], shown: tuple[int, ...], best: str, ranking: str) -> None:
    for wanted, label in ((False, best), (True, ranking)):
        made = task(ranks, shown, ranking=wanted)
        assert made.ground_truth == made.flat().ground_truth == label
        nway.check_ground_truth(label)
        assert mixed.compute_score("critic_nway/made", f"<think>Hm.</think>\\boxed{{{label}}}", label)["score"] == 1.0
    assert "such as \\boxed{2 > 1 = 3}" in task(ranks, shown, ranking=True).prompt
    assert "as \\boxed{number}" in task(ranks, shown, ranking=False).prompt


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("2 > 1 = 3", 1.0),
        ("2, 1 = 3", 1.0),
        ("1 = 3 > 2", 0.1),
        ("2 > 1 > 3", 0.9 * 0.9082 + 0.1),
        ("2", 0.0),
        ("1 = 2 = 3", 0.1),
    ],
)
def test_what_a_ranking_pays(said: str, score: float) -> None:
    found = nway.compute_score("critic_nway/x", f"<think>Hm.</think>\\boxed{{{said}}}", "2 > 1 = 3")
    assert found["score"] == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize(
    ("ranks", "how", "reason"),
    [
        ([1, 2, 2], "tasks", None),
        ([1, 1, 2], "tasks", "tie"),
        ([1, 1, 2], "rankings", None),
        ([1, 1, 1], "rankings", "tie"),
    ],
)
def test_rows(ranks: list[int], how: Any, reason: str | None, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(make_image(1))
    transform = Transform(Settings("generic", nway=how, image_roots=(str(tmp_path),)), load_source("generic"))
    outcome = transform([(0, {**GOOD["generic"](1), "rankings": ranks})])
    assert [r["reason"] for r in outcome.rejected] == ([reason] if reason else [])
    for row in outcome.rows:
        assert not list(row_problems(row.nested(), full=True, roots=[tmp_path]))
        shown = {str(place): text for place, text in enumerate(row.responses or [], 1)}
        given = dict(zip(GOOD["generic"](1)["responses"], ranks, strict=True))
        first, *_ = row.ground_truth.split()
        assert given[shown[first]] == 1
        assert json.loads(row.meta or "")["ranks"] == [given[text] for text in shown.values()]
