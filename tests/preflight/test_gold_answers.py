"""The gold answers of rewards that pay for the form of the thoughts, or of other labels."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.tasks.nway import RankedResponses, RankTask
from data_prep.tasks.pairwise import SCHEMA, Image, PreferencePair, PreferenceTask, Preferred
from data_prep.tasks.row import HasRow
from recipe.critic_r1.preflight import reward_function
from tests.data_prep.made_images import make_image
from tests.preflight.conftest import composed

IMAGE = Image(make_image(1))
BETTER: tuple[Preferred, ...] = (0, 1, "tie")
PAIRS = [PreferenceTask(PreferencePair("x", (IMAGE,), "?", ("7", "3"), better), 0) for better in BETTER]
ITEM = RankedResponses("x", (IMAGE,), "?", ("a", "b", "c"), (1, 2, 2))
RANKED = [RankTask(ITEM, (1, 0, 2), ranking=ranking) for ranking in (False, True)]


@pytest.mark.parametrize(
    ("variant", "tasks", "status"),
    [
        *((name, PAIRS, "pass") for name in ("grounded", "rubric", "scores", "counterfactual", "swap_consistency")),
        ("nway", RANKED, "pass"),
        ("nway", PAIRS, "warn"),  # 1 and 2 are numbers of responses, and a tie is none
        ("rubric", RANKED[1:], "fail"),
    ],
)
def test_a_variant_pays_the_gold_answers_of_its_rows(
    variant: str, tasks: list[HasRow], status: str, tmp_path: Path
) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([task.row() for task in tasks], schema=SCHEMA), path)
    (found,) = reward_function.gold(composed("r1", {"variant": variant, "data.train_files": str(path)}))
    assert found.status == status, found.detail
