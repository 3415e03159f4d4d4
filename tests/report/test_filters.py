"""The list of judgements: what its filters show is what the files hold, by mouse and by keyboard, at any size."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from recipe.critic_r1.report.page import CARDS_AT_A_TIME
from tests.report.chromium import opened
from tests.report.made_judge import CATEGORIES

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FOCUS = """() => {
  const focused = document.activeElement;
  const style = getComputedStyle(focused);
  return {id: focused.id, tag: focused.tagName, name: focused.className, text: focused.textContent.slice(0, 40),
          ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0};
}"""


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "judgements.jsonl").read_text(encoding="utf-8").splitlines()]


def is_wrong(line: dict[str, Any]) -> bool:
    return line["pred"] is not None and not line["correct"]


@pytest.fixture
def page(chromium: Browser, judge_runs: Path) -> Iterator[Page]:
    with opened(chromium, judge_runs / "report.html") as (page, complaints):
        yield page
        assert complaints == []


def shown(page: Page) -> int:
    """Number of judgements that the filters leave."""
    text = page.locator("#shown").inner_text()
    return 0 if text == "none" else int(text.rpartition(" ")[2])


def options(page: Page, name: str) -> dict[str, int]:
    """Label -> count of a select's options."""
    texts = page.locator(f"#{name} option").all_inner_texts()
    return {match[1]: int(match[2]) for text in texts if (match := re.fullmatch(r"(.*) \((\d+)\)", text))}


def test_each_filter_counts_what_it_shows(page: Page, judge_runs: Path) -> None:
    judged = lines(judge_runs / "tuned")
    assert options(page, "category") == Counter(line["category"] for line in judged)
    assert options(page, "reason") == Counter(line["reason"] for line in judged)
    assert options(page, "order") == {"as listed": 90, "swapped": 90}
    assert options(page, "label") == {"first": 90, "second": 90}

    page.select_option("#category", label=f"reasoning ({Counter(line['category'] for line in judged)['reasoning']})")
    page.select_option("#order", "=1")
    page.click("#filters button[data-filter=wrong]")
    expected = [line for line in judged if line["category"] == "reasoning" and line["order"] == 1 and is_wrong(line)]
    assert len(expected) > 3
    assert shown(page) == len(expected)
    for head in page.locator(".card .head").all_inner_texts():
        assert head.startswith("reasoning · swapped · pair ")
    # The counts of a filter are those under all the others.
    assert options(page, "order")["as listed"] == sum(
        line["category"] == "reasoning" and line["order"] == 0 and is_wrong(line) for line in judged
    )
    assert options(page, "category") == {
        name: sum(line["category"] == name and line["order"] == 1 and is_wrong(line) for line in judged)
        for name in CATEGORIES
    }
    page.fill("#search", expected[0]["pair_id"][:12].upper())
    expect(page.locator("#shown")).to_have_text("1 to 1 of 1")
    page.click("#clear")
    expect(page.locator("#shown")).to_have_text(f"1 to {CARDS_AT_A_TIME} of {len(judged)}")
    expect(page.locator("#clear")).to_be_hidden()
    expect(page.locator("#search")).to_have_value("")


def test_filters_that_nothing_fits_say_so(page: Page) -> None:
    page.fill("#search", "no such words anywhere")
    expect(page.locator("#shown")).to_have_text("none")
    expect(page.locator("#cards")).to_have_text("No judgement fits these filters.")


def test_wrong_then_inconsistent_then_unparsed_come_first(page: Page, judge_runs: Path) -> None:
    kinds = []
    for _ in range(8):
        kinds += [str(card.get_attribute("class")).split()[-1] for card in page.locator(".card").all()]
        if page.locator("#next").is_disabled():
            break
        page.click("#next")
    judged = lines(judge_runs / "tuned")
    assert len(kinds) == len(judged)
    wrong = sum(map(is_wrong, judged))
    assert set(kinds[:wrong]) == {"wrong"}
    # Then the right ones that flip, then what was not read, then what was not answered, then the rest.
    runs = [kind for kind, before in zip(kinds, ["", *kinds], strict=False) if kind != before]
    assert runs == ["wrong", "right", "unparsed", "unanswered", "right"]


def test_another_judge_and_the_first_one_side_by_side(page: Page, judge_runs: Path) -> None:
    base, tuned = (
        {(one["pair_id"], one["order"]): one for one in lines(judge_runs / name)} for name in ("base", "tuned")
    )
    learned = sum(one["correct"] and not base[key]["correct"] for key, one in tuned.items())
    expect(page.locator("#filters button[data-filter=learned] b")).to_have_text(str(learned))
    assert page.locator(".card").first.locator(".side .name").all_inner_texts() == ["base", "tuned"]
    page.select_option("#side", "base")
    expect(page.locator("#filters button[data-filter=wrong] b")).to_have_text(str(sum(map(is_wrong, base.values()))))
    expect(page.locator("#filters button[data-filter=learned]")).to_have_count(0)


def test_words_that_are_searched_are_marked(page: Page) -> None:
    page.fill("#search", "CASE 7?")
    expect(page.locator("#shown")).to_have_text("1 to 2 of 2")
    assert set(page.locator(".card mark").all_inner_texts()) == {"case 7?"}


def test_a_bar_leads_to_its_judgements(page: Page, judge_runs: Path) -> None:
    page.click("#filters button[data-filter=wrong]")
    bar = page.locator("button.share[data-side=base][data-facet=category]").first
    category = bar.get_attribute("data-value")
    bar.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#side")).to_have_value("base")
    count = sum(line["category"] == category for line in lines(judge_runs / "base"))
    expect(page.locator("#shown")).to_have_text(f"1 to {CARDS_AT_A_TIME} of {count}")
    assert {text.split(" · ")[0] for text in page.locator(".card .head").all_inner_texts()} == {category}
    expect(page.locator("#filters button").first).to_be_focused()


def test_every_stop_of_the_tab_key_is_seen_and_filters_work_by_keys(page: Page, judge_runs: Path) -> None:
    stops = []
    for _ in range(400):
        page.keyboard.press("Tab")
        stop = page.evaluate(FOCUS)
        stops.append(stop)
        if stop["id"] == "next" or "card" in stop["name"]:
            break
    assert [stop for stop in stops if not stop["ring"]] == []
    ids = [stop["id"] for stop in stops if stop["id"]]
    assert ids == ["scheme", "side", "sort", "search", "category", "order", "label", "reason", "next"]
    kinds = [stop["text"] for stop in stops if re.match(r"(All|Wrong|Inconsistent|Unparsed)\d", stop["text"])]
    assert len(kinds) == 4

    for _ in range(4):  # back from Next to the order of the responses
        page.keyboard.press("Shift+Tab")
        if page.evaluate(FOCUS)["id"] == "order":
            break
    page.keyboard.press("s")  # a select takes the first letter: "swapped", not the key of the page
    page.keyboard.press("Enter")
    expect(page.locator("#order")).to_have_value("=1")
    assert shown(page) == 90
    page.locator("#filters button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#filters button[data-filter=wrong]")).to_be_focused()
    assert shown(page) == sum(line["order"] == 1 and is_wrong(line) for line in lines(judge_runs / "tuned"))
    page.keyboard.press("x")
    assert shown(page) == 180


def test_a_image_gets_larger_by_key(page: Page) -> None:
    button = page.locator(".card .image").first
    image = button.locator("img")
    page.wait_for_function("document.querySelector('.card img').complete")
    small = image.bounding_box()
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    large = image.bounding_box()
    assert small is not None
    assert large is not None
    assert large["width"] > 2 * small["width"]
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "false")


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 390), ("light", 1280), ("dark", 1280)])
def test_runs_side_by_side_render_at_any_size(chromium: Browser, judge_runs: Path, scheme: str, width: int) -> None:
    with opened(chromium, judge_runs / "report.html", scheme=scheme, width=width) as (page, complaints):
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
        assert page.locator("h3.board").all_inner_texts() == [
            "Critic benchmark: general/chat <b>, hallucination, reasoning, 90 pairs",
            "Best of N",
            "Policy evaluation",
        ]
        expect(page.locator("#cards .card")).to_have_count(CARDS_AT_A_TIME)
        low = page.evaluate(CONTRAST)
        assert low == [], "text that is hard to read"
        assert complaints == []


# WCAG 2.1, success criterion 1.4.3: 4.5 to 1, for the texts that stand on a ground of one colour.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (text) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (text) => {
    const [r, g, b] = rgba(text).map((part) => part / 255)
      .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (rgba(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const low = new Set();
  for (const element of document.querySelectorAll("main *, nav *, header *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest("svg, :disabled, option") || !element.getClientRects().length) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.add(element.className + ": " + element.textContent.trim().slice(0, 30));
  }
  return [...low];
}"""


def test_five_thousand_judgements_keep_the_document_small(chromium: Browser, large_run: Path) -> None:
    judged = lines(large_run)
    with opened(chromium, large_run / "report.html") as (page, complaints):
        expect(page.locator("#shown")).to_have_text(f"1 to {CARDS_AT_A_TIME} of 5000")
        # One block an image waits in the file; what is drawn is one page of cards.
        assert page.evaluate("document.querySelectorAll('*:not(script)').length") < 2500
        assert page.evaluate("document.images.length") == CARDS_AT_A_TIME
        page.click("#filters button[data-filter=wrong]")
        assert shown(page) == sum(map(is_wrong, judged))
        page.select_option("#category", "=reasoning")
        assert shown(page) == sum(line["category"] == "reasoning" and is_wrong(line) for line in judged)
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")  # a key would choose in the focused list
        page.fill("#search", "case 2498?")
        page.click("#clear")
        page.fill("#search", "case 2498?")
        expect(page.locator("#shown")).to_have_text("1 to 2 of 2")
        expect(page.locator(".card")).to_have_count(2)
        page.wait_for_function("[...document.images].every((image) => image.complete)")
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
        assert complaints == []
