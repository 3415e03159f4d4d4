"""The worlds of the demo: their questions have the answers that their images show, and the demo trains on either."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import pytest

from data_prep.checks.rows import check_parquet
from data_prep.sources import easy_vqa
from recipe.critic_r1.demo import VariantName, WorldName, stages, warm_start
from recipe.critic_r1.demo.evaluate import load_test_data
from recipe.critic_r1.demo.model import build_tokenizer
from recipe.critic_r1.demo.phrases import PLAIN
from recipe.critic_r1.demo.pipeline import DemoSettings, StageFailed
from recipe.critic_r1.demo.worlds import DIGITS, WORLDS, EasyVqa, World

EASY = WORLDS["easy_vqa"]
SIZES = {"n_warm_start": 24, "n_rl": 30, "n_test": 12}


def test_every_world_has_a_name() -> None:
    assert tuple(WORLDS) == get_args(WorldName)


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS.keys())
@pytest.mark.parametrize("judged", [True, False])
def test_questions_have_answers_and_plausible_wrong_ones(world: World, judged: bool) -> None:
    rng = random.Random(0)
    for seen in world.seen:
        question = world.ask(rng, seen, judged=judged)
        right = world.answer(question, seen)
        wrong = world.wrong(rng, question, right, 1)
        assert {right, *wrong} <= {*world.answers(question)}
        assert right not in wrong


def test_known_errors_come_first_and_no_wrong_answer_twice() -> None:
    rng = random.Random(0)
    for _ in range(20):
        wrong = WORLDS["digits"].wrong(rng, "", "3", 4, ["5", "5", "8"])
        assert {*wrong[:2]} == {"5", "8"}
        assert len({"3", *wrong}) == 5


@pytest.mark.parametrize("wrong", ["3", "10"])
def test_a_right_answer_is_no_wrong_response(wrong: str) -> None:
    (item,) = DIGITS.items([3])
    assert item.answer == "3"
    with pytest.raises(ValueError, match="not a wrong answer"):
        DIGITS.pair(item, wrong)


def test_kinds_and_answers_are_asked_for_equally_often() -> None:
    rng = random.Random(0)
    asked = [EASY.ask(rng, "teal circle", judged=False) for _ in range(3000)]
    kinds = Counter(map(easy_vqa.kind_of, asked))
    assert all(count == pytest.approx(500, abs=80) for count in kinds.values())
    answers = Counter(EASY.answer(question, "teal circle") for question in asked)
    assert answers["yes"] == pytest.approx(answers["no"], abs=150)
    judged = {easy_vqa.kind_of(EASY.ask(rng, "teal circle", judged=True)) for _ in range(100)}
    assert judged == {"shape", "shape_there"}


def test_splits_of_easy_vqa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EasyVqa, "sizes", SIZES)
    split = EASY.split(0)
    assert all(item.answer == EASY.answer(item.question, item.seen) for items in split.values() for item in items)
    kinds = {name: {item.kind for item in items} for name, items in split.items()}
    assert kinds["rl"] | kinds["test"] <= {"shape", "shape_there"}
    assert kinds["unjudged"] <= {"shape_absent", "color", "color_there", "color_absent"}
    images = {name: {item.image.blake3 for item in items} for name, items in split.items()}
    assert not images["rl"] & images["test"] | images["rl"] & images["unjudged"] | images["warm_start"] & images["rl"]
    assert split == EASY.split(0)


def test_words_of_easy_vqa_are_single_tokens() -> None:
    tokenizer = build_tokenizer(world=EASY)
    for seen, question, shown in EASY.examples():
        text = PLAIN.critic_prompt(question, shown).removeprefix("<image>") + PLAIN.critic_response(seen, shown, "1")
        tokens = [token.lstrip("Ġ") for token in tokenizer.tokenize(text)]
        assert not [
            token for token in tokens if len(token) == 1 and token.isascii() and token.isalpha() and token not in "Ia"
        ]


def test_what_the_demo_prepares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short warm start on batches of mixed lengths, then pairs of judged kinds and questions of all."""
    monkeypatch.setattr(EasyVqa, "sizes", SIZES)
    short = warm_start.WarmStartSettings(
        max_steps=3, cooldown_steps=1, check_every=2, ramp_steps=2, policy_batch=4, critic_batch=8, gate=0.0
    )
    monkeypatch.setattr(warm_start, "WarmStartSettings", lambda: short)
    stages.prepare(tmp_path, seed=0, flip_labels=0.0, world="easy_vqa", variant="scores", coherence_gate=None)
    for folder in ("critic", "policy"):
        assert check_parquet(tmp_path / "data" / folder).ok
    rows = pq.read_table(tmp_path / "data" / "critic" / "train-00000.parquet").to_pylist()
    assert {easy_vqa.kind_of(row["extra_info"]["question"]) for row in rows} == {"shape", "shape_there"}
    assert all({row["extra_info"][f"response_{n}"] for n in (1, 2)} != {"yes"} for row in rows)
    data = load_test_data([tmp_path / "data"])
    assert len(data.unjudged) == 12
    assert {data.kinds[problem.problem_id] for problem in data.problems} <= {"shape", "shape_there"}
    assert not {data.kinds[problem.problem_id] for problem in data.unjudged} & {"shape", "shape_there"}
    assert json.loads((tmp_path / "data" / "critic" / "manifest.json").read_text())["settings"]["world"] == "easy_vqa"


@pytest.mark.parametrize("variant", ["counterfactual", "nway"])
def test_a_variant_that_needs_several_wrong_answers_is_refused(variant: VariantName) -> None:
    with pytest.raises(StageFailed, match=f"--variant {variant} needs several wrong answers"):
        DemoSettings(world="easy_vqa", variant=variant)
