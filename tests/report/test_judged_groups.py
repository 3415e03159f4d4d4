"""Groups that a critic compared, on the page."""

import json
from pathlib import Path
from typing import Any

import pytest

from recipe.critic_r1.report import build_report
from recipe.critic_r1.report.judged_groups import SHOWN_GROUPS, SHOWN_MATCHES, judged_groups
from recipe.critic_r1.report.records import RolloutLine
from tests.report.made_run import make_run


def line(
    uid: str, sample: int, acc: float, *matches: tuple[int, float, str | None, str | None], step: int = 9
) -> dict[str, Any]:
    told = [{"against": other, "share": share, "verdicts": list(verdicts)} for other, share, *verdicts in matches]
    return {
        "step": step, "uid": uid, "sample": sample, "acc": acc, "response": f"<b>{sample}</b>", "prompt": "Which?",
        "data_source": "policy/made", "ground_truth": "7", "matches": told, "pred": str(sample % 3),
    }  # fmt: skip


BRACKET = [
    line("a", 0, 0.0, (1, 0.0, "2", "1")),
    line("a", 1, 1.0, (0, 1.0, "1", "2"), (2, 0.5, "1", None)),
    line("a", 2, 0.5, (1, 0.5, None, "1")),
    line("a", 3, 0.0, (1, 0.0, "2", "1")),
    line("a", 4, 0.0),
]


def test_a_bracket() -> None:
    (group,) = judged_groups([RolloutLine(**each) for each in BRACKET])
    assert [(player.samples, player.score, player.matches) for player in group.players] == [
        ("1", 1.0, ["beats 0 (1, 2)", "draws with 2 (1, unreadable)"]),
        ("2", 0.5, ["draws with 1 (unreadable, 1)"]),
        ("0, 3", 0.0, ["loses to 1 (2, 1)"]),
        ("4", 0.0, []),
    ]
    assert (group.title, group.prompt, group.rounds, group.cut) == ("step 9", "Which?", 2, 0)


@pytest.mark.parametrize(
    ("matches", "told"),
    [
        ([{"against": 1, "share": 1.0, "verdicts": ["1", "not asked"]}], ["beats 1 (1, not asked)"]),
        ([{"against": 1, "share": 0.5, "verdicts": ["not asked", None]}], ["draws with 1 (not asked, unreadable)"]),
        (
            [{"against": -1, "share": 0.5, "verdicts": ["not asked", "not asked"]}],
            ["draws with the reference (not asked, not asked)"],
        ),
        ([{"score": 0.7}], ["scored 0.70"]),
        ([{"score": 0.0}], ["scored 0.00"]),
        ([{"score": None}], ["unreadable score"]),
    ],
)
def test_what_was_judged_in_words(matches: list[dict[str, Any]], told: list[str]) -> None:
    (group,) = judged_groups([RolloutLine(**line("a", 0, 0.5) | {"matches": matches})])
    assert group.players[0].matches == told


def test_the_last_groups_and_a_bounded_number_of_matches() -> None:
    many = [(other, 1.0, "1", "2") for other in range(1, SHOWN_MATCHES + 4)]
    lines = [RolloutLine(**line(f"{n}", 0, 1.0, *many, step=n)) for n in range(SHOWN_GROUPS + 2)]
    groups = judged_groups(lines, run="r")
    assert [group.title for group in groups] == [f"r · step {n}" for n in range(2, SHOWN_GROUPS + 2)]
    assert {(group.rounds, group.cut) for group in groups} == {(SHOWN_MATCHES, 3)}


@pytest.mark.parametrize("more", [{}, {"matches": None}, {"matches": []}])
def test_rollouts_that_nobody_compared_are_no_group(more: dict[str, Any]) -> None:
    given = {name: value for name, value in BRACKET[0].items() if name != "matches"}
    assert judged_groups([RolloutLine(**given | more)]) == []


def test_the_page_shows_it_as_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", pairs=4, steps=2)
    before = build_report(run).read_text()
    assert "Judged by a critic" not in before
    with (run / "train" / "samples.jsonl").open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in BRACKET)
    page = build_report(run).read_text()
    assert "Judged by a critic" in page
    assert "<td>draws with 2 (1, unreadable)</td>" in page
    assert "&lt;b&gt;1&lt;/b&gt;" in page
    assert "<b>1</b>" not in page
