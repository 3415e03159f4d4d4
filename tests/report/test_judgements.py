"""Right, wrong, unparsed, unanswered, inconsistent: what each judgement of a pair is called."""

import pytest

from recipe.critic_r1.report.judgements import contradict, make_cards
from recipe.critic_r1.report.records import JudgementLine


def judged(pair: str, order: int, pred: str | None, truth: str, **more: object) -> JudgementLine:
    line = {"pair_id": pair, "order": order, "pred": pred, "ground_truth": truth, "response": f"{pair} {order}"}
    return JudgementLine.model_validate(line | more)


@pytest.mark.parametrize(
    ("pred", "truth", "more", "kind"),
    [
        ("1", "1", {"correct": True}, "right"),
        ("1", "2", {"correct": False}, "wrong"),
        ("tie", "tie", {"correct": True}, "right"),
        ("tie", "1", {"correct": False}, "wrong"),
        # A file without `correct` is judged by its label.
        ("2", "2", {}, "right"),
        ("2", "1", {}, "wrong"),
        # No verdict is no wrong verdict, although the file has it as not correct.
        (None, "1", {"correct": False, "reason": "no_box"}, "unparsed"),
        ("", "1", {"correct": False}, "unparsed"),
        ("third", "1", {"correct": False}, "unparsed"),
        (None, "1", {"correct": False, "reason": "request_failed", "error": "500"}, "unanswered"),
        (None, "1", {"correct": False, "error": "time-out"}, "unanswered"),
    ],
)
def test_kind(pred: str | None, truth: str, more: dict[str, object], kind: str) -> None:
    (card,) = make_cards({"after": [judged("p", 0, pred, truth, **more)]})
    assert card.sides["after"].kind == kind


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("1", "2", False),
        ("2", "1", False),
        ("tie", "tie", False),
        ("1", "1", True),
        ("2", "2", True),
        ("1", "tie", True),
        ("tie", "2", True),
        ("1", "", None),
        ("", "", None),
    ],
)
def test_contradiction_of_two_orders(one: str, other: str, expected: bool | None) -> None:
    assert contradict(one, other) is expected
    assert contradict(other, one) is expected


def test_flips_are_seen_from_both_orders_and_only_within_an_evaluation() -> None:
    before = [judged("p", 0, "1", "1"), judged("p", 1, "1", "2")]
    after = [judged("p", 0, "1", "1"), judged("p", 1, "2", "2"), judged("q", 0, "1", "1")]
    cards = {(card.pair_id, card.order): card for card in make_cards({"before": before, "after": after})}
    assert {key: card.sides["before"].flips for key, card in cards.items() if "before" in card.sides} == {
        ("p", "0"): True,
        ("p", "1"): True,
    }
    assert [cards[("p", order)].sides["after"].flips for order in "01"] == [False, False]
    lonely = cards[("q", "0")]
    assert (lonely.sides["after"].flips, lonely.sides["after"].other, list(lonely.sides)) == (None, None, ["after"])


def test_before_and_after_share_a_card_in_the_order_of_the_file() -> None:
    before = [judged("p", 0, "1", "1"), judged("q", 0, "2", "1")]
    after = [judged("q", 0, "1", "1"), judged("p", 0, None, "1"), judged("r", 0, "1", "1")]
    cards = make_cards({"before": before, "after": after})
    assert [card.pair_id for card in cards] == ["p", "q", "r"]
    assert [{name: side.kind for name, side in card.sides.items()} for card in cards] == [
        {"before": "right", "after": "unparsed"},
        {"before": "wrong", "after": "right"},
        {"after": "right"},
    ]


def test_a_pair_judged_twice_in_one_order_keeps_both() -> None:
    listed = [judged("p", 0, "1", "1"), judged("p", 0, "2", "1"), judged("p", 1, "2", "2"), judged("p", 1, "2", "2")]
    cards = make_cards({"after": listed})
    assert [(card.order, card.sides["after"].verdict, card.sides["after"].flips) for card in cards] == [
        ("0", "1", False),
        ("0", "2", True),
        ("1", "2", False),
        ("1", "2", True),
    ]
