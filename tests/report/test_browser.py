"""The page of a training run as a reader has it: in Chromium, light and dark, wide and narrow, mouse and keyboard."""

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from recipe.critic_r1.report import build_page, build_report
from recipe.critic_r1.report.page import CARDS_AT_A_TIME
from tests.report.chromium import VARIABLE, NoBrowserError, find_chromium, opened
from tests.report.made_judge import benchmark, make_best_of_n, make_judge_run, make_policy_run, write_benchmark
from tests.report.made_run import HOSTILE, make_run
from tests.report.test_judged_groups import BRACKET

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def report(whole_run: Path) -> Path:
    return whole_run / "report.html"


@pytest.fixture
def page(chromium: Browser, report: Path) -> Iterator[Page]:
    with opened(chromium, report) as (page, complaints):
        yield page
        assert complaints == []


def expected_counts(run: Path, name: str) -> dict[str, int]:
    """What the filter buttons must say, counted from the judgement file in its own way."""
    lines = [json.loads(line) for line in (run / "eval" / f"{name}_judgements.jsonl").read_text().splitlines()]
    read = {(line["pair_id"], line["order"]): line["pred"] for line in lines}
    flips = [read[pair, 0] == read[pair, 1] is not None for pair, order in read]
    return {
        "all": len(lines),
        "wrong": sum(line["pred"] is not None and not line["correct"] for line in lines),
        "inconsistent": sum(flips),
        "unparsed": sum(line["reason"] == "no_box" for line in lines),
        "unanswered": sum(line["error"] is not None for line in lines),
        "right": sum(line["correct"] for line in lines),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 800, 1280])
def test_renders_without_complaint_at_any_size(chromium: Browser, report: Path, scheme: str, width: int) -> None:
    with opened(chromium, report, scheme=scheme, width=width) as (page, complaints):
        expect(page.locator("#cards .card")).to_have_count(CARDS_AT_A_TIME)
        for figure in page.locator(".chart svg").all():
            box = figure.bounding_box()
            assert box is not None
            assert box["height"] > 100
        page.wait_for_function("[...document.images].every((image) => image.complete)")
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        dark = sum(int(part) for part in re.findall(r"\d+", ground)[:3]) < 3 * 128
        assert dark == (scheme == "dark")
        assert complaints == []


def test_hostile_text_is_shown_and_never_run(page: Page, whole_run: Path) -> None:
    for text in HOSTILE[:4]:
        page.fill("#search", text)
        expect(page.locator("#shown")).not_to_have_text(f"1 to {CARDS_AT_A_TIME} of 120")
        expect(page.locator(".question").first).to_contain_text(text)
        for summary in page.locator(".card summary").all():
            summary.click()
        expect(page.locator(".card pre").first).to_contain_text(text)
    assert page.evaluate("window.stolen") is None
    assert page.locator("#cards :is(script, svg, textarea, style)").count() == 0


KEPT = ("pred", "ground_truth", "order", "pair_id", "image_blake3", "image", "correct", "problem_id", "data", "created")
"""Fields that join or classify lines: with other contents there would be nothing to show."""


PLACES = [
    ".sub", "h3.board", ".gaps li", ".tile .what", ".tile th", ".results th", ".fails th", ".note", ".categories th",
    ".legend li", ".chart h3", ".costs th", ".facts th", ".facts td", ".stages th", ".stages td", "#side option",
    "#category option", "#reason option", ".card .head", ".card .question", ".card .answer", ".card .name", ".card pre",
    "summary b",
]  # fmt: skip
"""Where texts of runs are on a page of several."""


def poisoned(value: Any, marks: Iterator[int], path: str = "") -> Any:
    """The value with hostile markup in every string and every name of it."""
    bad = "<img src=x onerror='window.stolen={0}'><script>window.stolen={0}</script>\"'&{{{{7*7}}}}"
    if isinstance(value, str):
        return value + bad.format(next(marks))
    if isinstance(value, list):
        return [poisoned(one, marks, path) for one in value]
    if isinstance(value, dict):
        known = {key: one if key in KEPT else poisoned(one, marks, key) for key, one in value.items()}
        free = path in ("metrics", "curves", "bills", "bill", "settings", "machine", "versions", "left_out")
        return known | ({f"{key}{bad.format(next(marks))}": one for key, one in known.items()} if free else {})
    return value


@pytest.fixture(scope="module")
def poisoned_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A page of four runs in which every text of every file is hostile, and the number of these texts."""
    root, marks = tmp_path_factory.mktemp("poisoned"), count(1)
    listed = benchmark(18)
    bench = write_benchmark(root / "bench", listed)
    for name in ("one", "two"):
        make_run(root / name, pairs=4, steps=3)
        make_judge_run(root / f"judge_{name}", listed, 0.6, 1)
        make_best_of_n(root / f"sampled_{name}", 0.1)
        make_policy_run(root / f"policy_{name}", 0.1)
    for file in sorted(root.rglob("*.json*")):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if file.name == "metrics.jsonl":
            for line in lines:
                line["data"] |= {f"critic_r1/reason/{poisoned('x', marks)}": 0.2}
        lines = [poisoned(line, marks) for line in lines]
        if file.name == "judge.json":
            lines[0] |= {"benchmark": poisoned("bench", marks)}
            lines[0]["metrics"][f"category/{poisoned('x', marks)}/accuracy"] = {"value": 0.5}
        if file.name == "eval_policy.json":
            lines[0]["metrics"][f"policy/{poisoned('a', marks)}/mean"] = {"value": 0.5}
        if file.name == "run.json":
            lines[0] |= {"control": {poisoned("a", marks): poisoned("b", marks)}, "seed": len(root.name)}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    # A name ends at the first equals sign.
    given = [f"{run.name}<script>alert(1)</script>&{{{{7*7}}}}={run}" for run in sorted(root.iterdir()) if run != bench]
    return build_page(given, root / "page.html", data=[bench]), next(marks)


def test_hostile_text_in_every_place_of_the_page_is_only_text(
    chromium: Browser, poisoned_page: tuple[Path, int]
) -> None:
    report, texts = poisoned_page
    assert texts > 900
    with opened(chromium, report) as (page, complaints):
        expect(page.locator("#cards .card")).to_have_count(CARDS_AT_A_TIME)
        shown: dict[str, str] = {}
        for number in range(page.locator("#side option").count()):
            page.select_option("#side", index=number)
            page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            expect(page.locator(".card pre").first).to_be_visible()
            texts_of = (
                "(all) => all.map((place) => [...document.querySelectorAll(place)].map((e) => e.textContent).join())"
            )
            for place, text in zip(PLACES, page.evaluate(texts_of, PLACES), strict=True):
                shown[place] = shown.get(place, "") + text
        assert [place for place, text in shown.items() if "</script>" not in text or "{{7*7}}" not in text] == []
        page.wait_for_function("[...document.images].every((image) => image.complete)")
        assert page.evaluate("window.stolen") is None
        assert page.locator(":is(img[src=x], [onerror], #cards script, main script, header script)").count() == 0
        assert complaints == []


def test_policy_stops_a_script_that_got_in(chromium: Browser, report: Path) -> None:
    with opened(chromium, report) as (page, complaints):
        page.evaluate(
            """() => {
              const script = document.createElement("script");
              script.textContent = "window.stolen = 5";
              document.body.append(script);
              const image = document.createElement("div");
              image.innerHTML = "<img src='data:,' onerror='window.stolen = 6'>";
              document.body.append(image);
              return new Promise((resolve) => setTimeout(resolve, 100));
            }"""
        )
        assert page.evaluate("window.stolen") is None
        assert len([line for line in complaints if "Content Security Policy" in line]) == 2


@pytest.mark.parametrize("name", ["before", "after"])
def test_filters_show_what_they_count(page: Page, whole_run: Path, name: str) -> None:
    marks = {"wrong": "wrong", "inconsistent": "flips", "unparsed": "unparsed", "unanswered": "unanswered"}
    page.select_option("#side", name)
    for kind, number in expected_counts(whole_run, name).items():
        button = page.locator(f"#filters button[data-filter={kind}]")
        expect(button.locator("b")).to_have_text(str(number))
        button.click()
        expect(page.locator(f"#filters button[data-filter={kind}]")).to_have_attribute("aria-pressed", "true")
        shown = min(number, CARDS_AT_A_TIME)
        expect(page.locator("#shown")).to_have_text(f"1 to {shown} of {number}" if number else "none")
        sides = page.locator(".card .side", has=page.locator(f".name:text-is('{name}')"))
        expect(sides).to_have_count(shown)
        if kind != "all":
            expect(sides.locator(f".chip.{marks.get(kind, kind)}")).to_have_count(shown)


def test_rollouts_of_training_stand_apart(page: Page) -> None:
    expect(page.locator(".side .name").first).to_have_text("before")
    page.select_option("#side", "rollouts")
    expect(page.locator("#shown")).to_have_text(f"1 to {CARDS_AT_A_TIME} of 240")
    assert set(page.locator(".side .name").all_inner_texts()) == {"rollouts"}
    expect(page.locator(".card").first.locator(".question")).to_contain_text("Response 1")
    expect(page.locator(".card .answer")).to_have_count(0)
    expect(page.locator("#filters button[data-filter=learned]")).to_have_count(0)
    page.select_option("#sort", "file")
    expect(page.locator(".card .head").first).to_contain_text("critic/made, step 1 ·")


def test_learned_and_lost_compare_with_the_first_evaluation(page: Page) -> None:
    for kind, right, not_right in (("learned", 1, 0), ("lost", 0, 1)):
        page.click(f"#filters button[data-filter={kind}]")
        cards = page.locator(".card").all()
        assert len(cards) > 1
        for card in cards:
            chips = [side.locator(".chip").first.get_attribute("class") for side in card.locator(".side").all()]
            assert chips[right] == "chip right"
            assert chips[not_right] != "chip right"
    page.select_option("#side", "before")
    expect(page.locator("#filters button[data-filter=learned]")).to_have_count(0)
    expect(page.locator("#filters button[data-filter=all]")).to_have_attribute("aria-pressed", "true")


def test_sorting_puts_problems_first(page: Page, whole_run: Path) -> None:
    wrong = expected_counts(whole_run, "after")["wrong"]
    chips = page.locator(".side:last-child h4 .chip:nth-of-type(2)")
    kinds = [chip.inner_text() for chip in chips.all()]
    assert kinds[:wrong] == ["✗ wrong"] * min(wrong, CARDS_AT_A_TIME)
    page.select_option("#sort", "turns")
    kinds = [chip.inner_text() for chip in chips.all()]
    assert len({kind.split()[-1] for kind in kinds}) >= 3, "kinds take turns"
    page.select_option("#sort", "file")
    ids = [line["pair_id"] for line in map(json.loads, _lines(whole_run / "eval" / "before_judgements.jsonl"))]
    heads = [head.inner_text() for head in page.locator(".card .head").all()]
    assert [head.split("pair ")[1].split(" ")[0] for head in heads] == ids[:CARDS_AT_A_TIME]


@pytest.mark.parametrize("width", [390, 1280])
def test_a_bracket_can_be_read(chromium: Browser, tmp_path: Path, width: int) -> None:
    run = make_run(tmp_path / "run", pairs=4, steps=2)
    with (run / "train" / "samples.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in BRACKET)
    with opened(chromium, build_report(run), width=width) as (page, complaints):
        for text in ("match 2", "draws with 2 (1, unreadable)", "<b>1</b>"):
            cell = page.get_by_text(text, exact=True).bounding_box()
            assert cell is not None
            assert cell["width"] > cell["height"], f"{text} is squeezed"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert complaints == []


def test_keyboard_reaches_everything(page: Page) -> None:
    focused = "[...document.querySelectorAll('.card')].indexOf(document.activeElement)"
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate(focused) == 2
    page.keyboard.press("k")
    assert page.evaluate(focused) == 1
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "focus is seen"
    page.keyboard.press("n")
    expect(page.locator("#shown")).to_have_text("25 to 48 of 120")
    page.keyboard.press("p")
    page.keyboard.press("p")
    expect(page.locator("#shown")).to_have_text("1 to 24 of 120")
    page.keyboard.press("/")
    page.keyboard.type("pair 11.")
    expect(page.locator("#shown")).to_have_text("1 to 2 of 2")
    page.keyboard.press("Escape")
    page.locator("#filters button").nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#filters button").nth(1)).to_be_focused()

    page.locator("figure.chart").first.focus()
    readout = page.locator("figure.chart").first.locator(".readout")
    page.keyboard.press("ArrowRight")
    first = readout.inner_text()
    page.keyboard.press("End")
    page.keyboard.press("Home")
    assert readout.inner_text() == first
    assert first.startswith("candidates 1: before 55.0 %")
    page.keyboard.press("Escape")
    assert readout.inner_text() == ""


def test_pointing_at_a_chart_reads_its_value(page: Page) -> None:
    figure = page.locator("figure.chart", has=page.locator("h3:text-is('Reward')"))
    svg = figure.locator("svg")
    svg.scroll_into_view_if_needed()
    box = svg.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + box["height"] / 2)
    assert figure.locator(".readout").inner_text().startswith("step 30: reward 0.")
    hair = figure.locator(".hair").bounding_box()
    assert hair is not None
    assert abs(hair["x"] - (box["x"] + box["width"] - 12)) < 12, "the hair stands where the pointer is"


def test_scheme_button_overrules_the_system(chromium: Browser, report: Path) -> None:
    with opened(chromium, report, scheme="light") as (page, _):
        ground = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(ground)
        page.click("#scheme")
        assert page.evaluate(ground) == light
        page.click("#scheme")
        assert page.evaluate(ground) != light
        page.click("#scheme")
        assert page.evaluate(ground) == light


def test_a_run_that_only_began_renders(chromium: Browser, tmp_path: Path) -> None:
    from recipe.critic_r1.report import build_report

    (tmp_path / "run.json").write_text('{"name": "only begun"}', encoding="utf-8")
    with opened(chromium, build_report(tmp_path)) as (page, complaints):
        expect(page.locator("h1")).to_have_text("only begun")
        expect(page.locator(".gaps li")).to_have_count(5)
        assert complaints == []


def test_no_browser_is_a_failure_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(NoBrowserError, match="apt-get install -y chromium"):
        find_chromium()
    monkeypatch.setenv(VARIABLE, "/nowhere/chromium")
    with pytest.raises(NoBrowserError, match="is no program"):
        find_chromium()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
