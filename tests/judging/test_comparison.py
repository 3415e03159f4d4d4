"""Two runs on the same items, made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from recipe.critic_r1.judging.comparison import compare, load_judgements
from recipe.critic_r1.judging.pairwise import Judgement


@pytest.fixture
def run(said: Any) -> Any:
    """A hundred pairs in two categories; the first `n` are judged right in both orders."""
    return lambda n: [said(f"p{i}", o, i < n, "ab"[i % 2]) for i in range(100) for o in (0, 1)]


def test_a_better_judge_is_found_better(run: Any) -> None:
    result = compare(run(50), run(70))
    for name in ("accuracy", "accuracy_both_orders", "category/a/accuracy", "category/b/accuracy"):
        change = result.figures[name]
        assert (change.first.value, change.second.value) == (0.5, 0.7)
        assert change.difference.value == pytest.approx(0.2)
        assert change.difference.low is not None
        assert change.difference.low > 0.05
    assert result.figures["swap_consistency"].difference.value == 0
    assert (result.only_first, result.only_second, result.pairs, result.unanswered) == (0, 20, 100, 0)
    assert result.p_value == pytest.approx(2 * 0.5**20)


def test_the_sign_and_the_test_turn_with_the_runs(run: Any, said: Any) -> None:
    other = [said(f"p{i}", o, 40 <= i < 53, "ab"[i % 2]) for i in range(100) for o in (0, 1)]
    there, back = compare(run(50), other), compare(other, run(50))
    assert there.figures["accuracy"].difference.value == pytest.approx(-0.37)
    assert back.figures["accuracy"].difference.value == pytest.approx(0.37)
    assert (there.only_first, there.only_second) == (40, 3) == (back.only_second, back.only_first)
    assert there.p_value == back.p_value == pytest.approx(binomtest(3, 43).pvalue)


def test_a_paired_interval_is_narrower_than_two_single_ones(run: Any) -> None:
    change = compare(run(50), run(55)).figures["accuracy"]
    width = {name: e["high"] - e["low"] for name, e in change.as_dict().items()}
    assert width["difference"] < 0.6 * width["first"]


def test_a_run_against_itself(run: Any) -> None:
    result = compare(run(50), list(reversed(run(50))))
    assert result.p_value == 1
    assert {change.difference.value for change in result.figures.values()} == {0}
    difference = result.figures["accuracy"].difference
    assert difference.low == pytest.approx(-difference.high)  # type: ignore[operator]


def test_one_order_alone_is_compared_too(run: Any) -> None:
    first, second = ([j for j in run(n) if j.task.order == 0] for n in (50, 56))
    result = compare(first, second)
    assert (result.only_second, result.p_value) == (6, 2 / 2**6)
    assert "swap_consistency" not in result.figures


def test_only_pairs_that_both_answered_are_compared(said: Any) -> None:
    first = [said(f"p{i}", o, True) for i in range(10) for o in (0, 1)]
    second = [said(f"p{i}", o, "error" if i < 4 and o else True) for i in range(10) for o in (0, 1)]
    result = compare(first, second)
    assert (result.pairs, result.unanswered, result.figures["accuracy"].difference.n) == (6, 4, 12)
    with pytest.raises(ValueError, match="no pair was answered by both"):
        compare(first, [said(f"p{i}", o, "error") for i in range(10) for o in (0, 1)])


def test_items_that_differ_are_counted_and_named(run: Any, said: Any) -> None:
    judged = run(50)
    with pytest.raises(ValueError, match=r"different items: 3 of 200 only in the first \(first: pair p98 in order 1\)"):
        compare(judged, judged[:-3])
    extra = [said("new", 0, True)]
    with pytest.raises(
        ValueError, match=r"2 of 200 only in the first .*p99 in order 0.*1 of 199 only in the second .*new"
    ):
        compare(judged, judged[:-2] + extra)
    with pytest.raises(ValueError, match=r"second run judges pair p0 in order 0 twice"):
        compare(judged, [*judged, judged[0]])


def test_labels_that_were_turned_over_are_no_common_items(said: Any, task: Any) -> None:
    def labelled(better: int) -> list[Judgement]:
        return [Judgement(task("p", o, better=better), "1", "ok", 1.0, ("1",), "") for o in (0, 1)]

    with pytest.raises(ValueError, match=r"different labels for 2 of 2 items \(first: pair p in order 0\)"):
        compare(labelled(0), labelled(1))


def write(judgements: list[Judgement], folder: Path) -> Path:
    folder.mkdir()
    text = "".join(f"{json.dumps(j.record(), ensure_ascii=False)}\n" for j in judgements)
    (folder / "judgements.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_what_a_run_wrote_is_read_back(said: Any, tmp_path: Path) -> None:
    made = [said("p0", 0, True, "a"), said("p0", 1, None, "b"), said("p1", 0, "error"), said("p1", 1, False)]
    odd = "line\u2028and\x85more\r\n"
    made[0] = Judgement(made[0].task, made[0].pred, "ok", 1.0, ("1", None), odd)
    folder = write(made, tmp_path / "run")
    read = load_judgements(folder)
    assert [j.record() for j in read] == [j.record() for j in made]
    assert read[0].text == odd
    assert load_judgements(folder / "judgements.jsonl") == read


def test_unusable_runs_are_named(said: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"judgements\.jsonl does not exist: give the --out folder"):
        load_judgements(tmp_path)
    path = write([said("p", 0, True)], tmp_path / "run") / "judgements.jsonl"
    line = path.read_text()
    changes: list[dict[str, Any]] = [
        {"order": float("inf")},
        {"order": None},
        {"votes": None},
        {"well_formed": float("nan")},
    ]
    strange = ["{}", *(json.dumps({**json.loads(line), **change}) for change in changes)]
    for other in (*strange, "[1]", "{cut", "[" * 100_000):
        path.write_text(f"{line}{other}\n")
        with pytest.raises(ValueError, match=r"judgements\.jsonl line 2 is not a judgement"):
            load_judgements(path)
    path.write_text("")
    with pytest.raises(ValueError, match="is empty"):
        load_judgements(path)
