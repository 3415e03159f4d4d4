"""Score tasks, N-way tasks, visual question answering, mixed files and swap consistency."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from reward_fns import answer, mixed, nway, pointwise, preference
from reward_fns.answer import same_answer
from reward_fns.swap_consistency import adjust
from reward_fns.symbolic import MAX_CHARS, SymbolicChecker

T = "<think>A reason.</think>"
HOSTILE = [
    "", None, 3, "<think>", T, T + "\\boxed{", T + "\\boxed{" + "9" * 100_000 + "}", "\x00", "\ud800",
    T + "\\boxed{" + "{}" * 50_000 + "}", T + "\\boxed{1e999999999}", T + "\\boxed{٣}", T + "\\boxed{²}",
    T + "\\boxed{1/0}",
]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "label", "options", "credit"),
    [
        ("7", "7", {}, 1.0),
        ("7.0", "7", {}, 1.0),
        ("6", "8", {}, 0.8),
        ("0", "10", {}, 0.0),
        ("8/10", "8", {}, 1.0),
        ("\\text{8}", "8", {}, 1.0),
        ("6", "8", {"shape": "exact"}, 0.0),
        ("6", "8", {"shape": "quadratic"}, 0.64),
        ("4", "5", {"low": 1, "high": 5}, 0.75),
        ("6", "5", {"low": 1, "high": 5}, 0.0),  # off the scale
        ("8/5", "8", {}, 0.0),  # another scale
        ("11", "10", {}, 0.0),
        ("-1", "0", {}, 0.0),
        ("nan", "5", {}, 0.0),
        ("inf", "5", {}, 0.0),
        ("1e1", "10", {}, 0.0),
        ("٧", "7", {}, 0.0),
        ("seven", "7", {}, 0.0),
    ],
)
def test_pointwise(answer, label, options, credit):
    result = pointwise.compute_score("critic_score/x", f"{T}\\boxed{{{answer}}}", label, **options)
    assert result["credit"] == pytest.approx(credit)
    assert result["format"] == float(result["pred"] != "")


@pytest.mark.parametrize(
    ("answer", "label", "acc", "credit"),
    [
        ("3", "3", 1.0, 1.0),
        ("2", "3", 0.0, 0.0),
        ("17", "3", 0.0, 0.0),
        ("2 > 1 > 3", "2 > 1 > 3", 1.0, 1.0),
        ("2,1,3", "2 > 1 > 3", 1.0, 1.0),
        ("2>1>3", "2 > 1 > 3", 1.0, 1.0),
        ("3 > 1 > 2", "2 > 1 > 3", 0.0, 0.0),
        ("2 > 3 > 1", "2 > 1 > 3", 0.0, 2 / 3),
        ("2 > 1 = 3", "2 > 3 = 1", 1.0, 1.0),  # the same order, written differently
        ("1 = 2 = 3", "2 > 1 > 3", 0.0, 0.0),  # tying everything is no way out
        ("2 > 1", "2 > 1 > 3", 0.0, 0.0),  # not the same responses
        ("2 > 2 > 1", "2 > 1 > 3", 0.0, 0.0),
        ("1 > 2 > 4", "2 > 1 > 3", 0.0, 0.0),
        ("2", "2 > 1 > 3", 0.0, 0.0),  # a choice where a ranking is asked for
        ("2 > 1", "2", 0.0, 0.0),
    ],
)
def test_nway(answer, label, acc, credit):
    result = nway.compute_score("critic_nway/x", f"{T}\\boxed{{{answer}}}", label)
    assert (result["acc"], result["credit"]) == (acc, pytest.approx(credit))


def test_sixteen_responses_fit_a_verdict():
    order = " > ".join(map(str, range(16, 0, -1)))
    assert nway.compute_score("critic_nway/x", f"{T}\\boxed{{{order}}}", order)["score"] == 1.0


@pytest.mark.parametrize("reward", [pointwise, nway, answer], ids=lambda module: module.__name__)
@pytest.mark.parametrize("label", ["1", "", None, "nan", "1 = 2"])
def test_hostile_responses_and_labels(reward, label):
    keys = list(preference.compute_score("critic/x", "", "1"))
    for text in HOSTILE:
        result = reward.compute_score("x", text, label)
        assert list(result) == keys
        assert 0.0 <= result["score"] <= 0.1 + 0.9 * result["credit"]
        assert {type(value) for value in result.values()} == {float, str, int}


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (pointwise.check_ground_truth, ["0", "7.5", "10"], ["11", "-1", "seven", "", 7, None, "nan"]),
        (nway.check_ground_truth, ["1", "16", "2 > 1", "1 = 2 > 3"], ["0", "17", "1 = 2", "2 > 3", "", 1, None, ["1"]]),
        (answer.check_ground_truth, ["7", "a dog", "\\frac{1}{2}"], ["", "  ", "$$", "x" * 257, 7, None]),
    ],
)
def test_labels(check, good, bad):
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ValueError, match="ground_truth must be"):
            check(value)


@pytest.mark.parametrize(
    ("answer", "truth", "same"),
    [
        ("7", "7", True),
        ("7.0", "7", True),
        ("７", "7", True),
        ("$7$", "7", True),
        ("\\text{7}", "7", True),
        ("1,000", "1000", True),
        ("50\\%", "0.5", True),
        ("\\frac{1}{2}", "0.5", True),
        ("1/3", "2/6", True),
        ("0.333", "1/3", False),
        ("8", "7", False),
        ("a Dog", "A dog.", True),
        ("a cat", "a dog", False),
        ("(B)", "B", True),
        ("B. the dog", "B", True),
        ("be", "B", False),
        ("A or B", "B", False),
        ("", "7", False),
        ("1/0", "7", False),
        ("9" * 257, "9" * 257, False),
    ],
)
def test_policy_answers_that_need_no_algebra(answer, truth, same):
    assert same_answer(answer, truth, symbolic=False) is same


def test_policy_algebra_in_threads_and_within_its_bounds():
    pairs = [
        ("\\sqrt{4}", "2", True),
        ("x+1", "1+x", True),
        ("2\\pi", "\\pi \\cdot 2", True),
        ("x+1", "x+2", False),
        ("9^{9^{9^{9}}}", "1+1", False),  # would never end
        ("x+1", "x+1" + "+0" * MAX_CHARS, False),  # too long to be looked at
    ]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pair: same_answer(pair[0], pair[1]), pairs * 2))
    assert found == [same for *_, same in pairs] * 2


def test_the_checker_replaces_a_child_that_died_or_is_late_and_can_be_pickled():
    checker = SymbolicChecker(seconds=20.0)
    assert checker.equal("x+1", "1+x")
    assert checker._child is not None
    os.kill(checker._child.pid, 9)
    checker._child.wait()
    assert checker.equal("x+1", "1+x")
    copy = pickle.loads(pickle.dumps(checker))
    assert copy.seconds == 20.0
    assert copy._child is None
    checker.seconds = 0.0  # nothing can be in time
    assert not checker.equal("x+1", "1+x")
    assert checker._child is None
    checker.close()


@pytest.mark.parametrize(
    ("source", "answer", "label", "kind"),
    [
        ("critic/digits", "2", "2", "preference"),
        ("critic_score/x", "7", "7", "pointwise"),
        ("critic_nway/x", "3", "3", "nway"),
        ("policy/digits", "7", "7", "answer"),
    ],
)
def test_mixed(source, answer, label, kind):
    result = mixed.compute_score(source, f"{T}\\boxed{{{answer}}}", label)
    assert (result["score"], result["kind"]) == (1.0, kind)
    mixed.check_ground_truth(source, label)
    assert list(result) == [*preference.compute_score("critic/x", "", "1"), "kind"]


def test_mixed_routes_and_options():
    tie = ("critic/x", T + "\\boxed{tie}", "1")
    assert mixed.compute_score(*tie, preference={"tie_credit": 0.5})["credit"] == 0.5
    assert mixed.compute_score(*tie, answer={"symbolic": False})["credit"] == 0.0
    assert mixed.compute_score("mine/x", T + "\\boxed{7}", "7", routes={"mine/": "answer"})["score"] == 1.0
    assert mixed.route("critic/special/x", {"critic/special/": "answer"}) == "answer"
    lost = mixed.compute_score("gsm8k", T + "\\boxed{7}", "7")
    assert (lost["score"], lost["reason"], lost["kind"]) == (0.0, "no_route", "")
    assert list(lost) == list(mixed.compute_score("policy/x", "", "7"))
    with pytest.raises(ValueError, match="no reward for data_source 'gsm8k'"):
        mixed.check_ground_truth("gsm8k", "7")


# pair, order, verdict, label, score -> adjusted score with weight 0.2 as a bonus
SWAP = [
    ("consistent and right", [("p", 0, "1", "1", 1.0), ("p", 1, "2", "2", 1.0)], [1.2, 1.2]),
    ("always the first: right in one order", [("p", 0, "1", "1", 1.0), ("p", 1, "1", "2", 0.1)], [1.0, 0.1]),
    ("consistent and wrong", [("p", 0, "2", "1", 0.1), ("p", 1, "1", "2", 0.1)], [0.1, 0.1]),
    ("ties agree", [("p", 0, "tie", "tie", 1.0), ("p", 1, "tie", "tie", 1.0)], [1.2, 1.2]),
    ("unreadable agrees with nothing", [("p", 0, "", "1", 0.0), ("p", 1, "", "2", 0.0)], [0.0, 0.0]),
    ("one order only", [("p", 0, "1", "1", 1.0), ("q", 1, "2", "2", 1.0)], [1.0, 1.0]),
    (
        "half of the other group agrees",
        [("p", 0, "1", "1", 1.0), ("p", 1, "2", "2", 1.0), ("p", 1, "1", "2", 0.1)],
        [1.1, 1.2, 0.1],
    ),
]


@pytest.mark.parametrize(("why", "rows", "expected"), SWAP, ids=[case[0] for case in SWAP])
def test_swap_bonus(why, rows, expected):
    pair_ids, orders, choices, truths, scores = (list(column) for column in zip(*rows, strict=True))
    assert adjust(pair_ids, orders, choices, truths, scores, weight=0.2).scores == pytest.approx(expected), why
    assert adjust(pair_ids, orders, choices, truths, scores, weight=0.0).scores == pytest.approx(scores)
    # In a group seen in both orders, the penalty is the bonus moved by the weight (nothing goes below 0).
    penalty = adjust(pair_ids, orders, choices, truths, scores, weight=0.2, mode="penalty")
    known = [share is not None for share in penalty.agreement]
    moved = [max(0.0, e - 0.2) if both else e for e, both in zip(expected, known, strict=True)]
    assert penalty.scores == pytest.approx(moved)


def test_swap_metrics_and_options():
    rows = (["p", "p", "q", "q", "r"], [0, 1, 0, 1, 0], ["1", "2", "1", "1", "1"], ["1", "2", "1", "2", "1"])
    result = adjust(*rows, [1.0, 1.0, 1.0, 0.1, 1.0], weight=0.2)
    assert result.metrics == pytest.approx({"pairs": 2, "consistent": 0.5, "agreement": 0.5, "adjustment": 0.1})
    assert adjust(["p"], [0], ["1"], ["1"], [1.0]).metrics == {}
    wrong = adjust(["p", "p"], [0, 1], ["2", "1"], ["1", "2"], [0.1, 0.1], weight=0.2, only_right=False)
    assert wrong.scores == pytest.approx([0.3, 0.3])
    for bad in ({"weight": -1.0}, {"mode": "other"}):
        with pytest.raises(ValueError, match="weight"):
            adjust(["p"], [0], ["1"], ["1"], [1.0], **bad)
    with pytest.raises(ValueError, match="order must be 0 or 1"):
        adjust(["p"], [2], ["1"], ["1"], [1.0])
    with pytest.raises(ValueError, match="one entry for each rollout"):
        adjust(["p"], [0, 1], ["1"], ["1"], [1.0])
