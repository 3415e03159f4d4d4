"""Where a judge fails, counted a second time; and texts that are too many or too long for a page."""

import json
from pathlib import Path

import pytest

from recipe.critic_r1.report import build_report, text_pool
from recipe.critic_r1.report.comparisons import make_boards
from recipe.critic_r1.report.failure_breakdown import failures
from recipe.critic_r1.report.records import JudgementLine, ResultFile
from recipe.critic_r1.report.run_files import Measured, Run, judged_items
from recipe.critic_r1.report.text_pool import Texts, shortened


def judged(number: int, truth: str, pred: str | None, category: str, **more: object) -> JudgementLine:
    line = {"pair_id": str(number), "order": 0, "ground_truth": truth, "pred": pred, "category": category}
    return JudgementLine.model_validate(line | more)


def test_slices_go_from_the_worst_category_to_the_best() -> None:
    listed = [
        *(judged(n, "1", "1", "easy") for n in range(3)),
        judged(3, "2", "1", "easy"),
        judged(4, "2", "1", "hard"),
        judged(5, "2", None, "hard", reason="no_box"),
        judged(6, "1", "1", "hard"),
        judged(7, "1", None, "hard", error="500"),
    ]
    run = Run(Path("run"), "run")
    run.measured = [Measured("benchmark", "", ResultFile(), listed, {"model": "m"}, judged_items(listed))]
    found = failures(make_boards([run])[0])
    assert found is not None
    assert found.names == ["m"]
    table = {
        part.title: (part.facet, part.value, share.right, dict(share.parts))
        for part in found.slices
        for share in part.shares
        if share
    }
    assert list(table) == ["All", "Better response first", "Better response second", "hard", "easy"]
    assert table["easy"] == ("category", "easy", "75.0 %", {"right": 75.0, "wrong": 25.0})
    # Of the three that were answered one is right; the bar holds all four.
    assert table["hard"] == (
        "category",
        "hard",
        "33.3 %",
        {"right": 25.0, "wrong": 25.0, "unparsed": 25.0, "unanswered": 25.0},
    )
    accuracy, parts = table["Better response second"][2:]
    assert accuracy == "0.0 %"
    assert parts == pytest.approx({"wrong": 200 / 3, "unparsed": 100 / 3})


def test_one_category_is_no_slice() -> None:
    listed = [judged(n, "1", "1", "only") for n in range(2)]
    run = Run(Path("run"), "run")
    run.measured = [Measured("benchmark", "", ResultFile(), listed, {}, judged_items(listed))]
    found = failures(make_boards([run])[0])
    assert found is not None
    assert [part.title for part in found.slices] == ["All"]


def test_a_long_text_keeps_its_start_and_its_end() -> None:
    text = "start " + "x" * 1000 + " \\boxed{1}"
    short = shortened(text, 100)
    assert short.startswith("start xxx")
    assert short.endswith(" \\boxed{1}")
    assert f"[… {len(text) - 100} characters are not on this page …]" in short
    assert shortened("x" * 100, 100) == "x" * 100


def test_many_long_texts_are_held_to_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_pool, "PAGE_BUDGET", 100_000)
    found = Texts()
    assert [found.place(text) for text in ("short", "y" * 30_000, "short")] == [0, 1, 0]
    for number in range(20):
        found.place(f"{number} " + "x" * 30_000)
    listed, cut = found.listed()
    assert (listed[0], cut) == ("short", 21)
    assert sum(map(len, listed)) < 100_000 + 21 * 60, "but for a word on what was left out"


def test_a_rambling_response_makes_no_page_that_does_not_open(tmp_path: Path) -> None:
    ramble = "</script>\ud800" + "<b>ha" * 400_000 + "\\boxed{1}"
    line = {"pair_id": "p", "order": 0, "ground_truth": "1", "pred": "1", "correct": True, "response": ramble}
    (tmp_path / "judge.json").write_text("{}", encoding="utf-8")
    (tmp_path / "judgements.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert len(page) < 250_000
    assert "1 long text is shown without the middle" in page
    assert "\\\\boxed{1}" in page
