"""The page as a file: self-contained, honest about gaps, and deaf to what models and data sets write into it."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from recipe.critic_r1.report import build_page, build_report
from recipe.critic_r1.report.best_of_n_curves import best_of_n_charts
from recipe.critic_r1.report.charts import ChartLine, line_chart, rolling_mean, stacked_chart
from recipe.critic_r1.report.comparisons import make_boards
from recipe.critic_r1.report.page import json_block
from recipe.critic_r1.report.records import CurvePoint, ResultFile, Step
from recipe.critic_r1.report.run_files import Measured, Run
from recipe.critic_r1.report.training_curves import compared_curves, training_curves
from tests.report.made_run import HOSTILE, make_run


class Tags(HTMLParser):
    """Every start tag with its attributes, and the text of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def page(whole_run: Path) -> str:
    return (whole_run / "report.html").read_text(encoding="utf-8")


def test_page_names_no_address(page: str) -> None:
    allowed = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of SVG's grammar, never loaded
    assert set(re.findall(r"""https?://[^"'\s<)]+""", page)) <= allowed
    for tag, attributes in Tags(page).tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("#", "data:")), (tag, name, value)


def test_hostile_text_adds_no_tag_and_no_script(page: str) -> None:
    tags = Tags(page)
    kinds = [attributes.get("type") for tag, attributes in tags.tags if tag == "script"]
    images = ["text/plain"] * (len(kinds) - 3)
    assert kinds == ["application/json", "application/json", *images, None], "data, images and our script"
    assert all(re.fullmatch(r"data:image/png;base64,[\w+/=]+", text) for text in tags.scripts[2:-1])
    handlers = [(tag, name) for tag, attributes in tags.tags for name in attributes if name.startswith("on")]
    assert handlers == []
    assert not [tag for tag, _ in tags.tags if tag == "img"], "images are put in place by the script"


def test_what_was_written_reaches_the_page_unchanged(page: str) -> None:
    data = json.loads(Tags(page).scripts[1])
    questions = {data["texts"][card["question"]] for card in data["cards"]}
    for text in HOSTILE:
        assert any(text in question for question in questions), text


def test_a_text_stands_on_the_page_once(page: str) -> None:
    data = json.loads(Tags(page).scripts[1])
    assert len(set(data["texts"])) == len(data["texts"])
    assert len(data["texts"]) < 2 * len(data["cards"]), "both orders and both evaluations share theirs"


@pytest.mark.parametrize("text", [*HOSTILE, "</SCRIPT >", "]]>", "\u2028\u2029", "a<b"])
def test_json_block_reads_back_and_holds_no_opening_bracket(text: str) -> None:
    block = json_block({"text": text})
    assert "<" not in block
    assert json.loads(block) == {"text": text}


def test_policy_names_exactly_our_script(page: str) -> None:
    import base64
    import hashlib

    tags = Tags(page)
    (policy,) = [a["content"] for tag, a in tags.tags if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(tags.scripts[-1].encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_a_whole_run_has_no_gaps(page: str) -> None:
    assert "Missing from this page" not in page
    for title in ("Reward", "KL to the reference model", "Step time by part", "Best of N: after"):
        assert title in page


def test_a_run_that_only_began_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"name": "only begun"}', encoding="utf-8")
    page = build_report(tmp_path).read_text(encoding="utf-8")
    for sentence in (
        "train/metrics.jsonl is missing or empty: no training curves.",
        "eval/before.json is missing",
        "eval/after_judgements.jsonl is missing or empty",
        "No judgements in this run.",
        "No stage durations were recorded.",
        "seed not recorded",
    ):
        assert sentence in page


def test_curves_that_were_not_logged_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", pairs=1, steps=2)
    metrics = run / "train" / "metrics.jsonl"
    metrics.write_text('{"step": 1, "data": {"actor/grad_norm": 1.0, "actor/kl_loss": NaN}}\n', encoding="utf-8")
    page = build_report(run).read_text(encoding="utf-8")
    assert "lacks the metrics for Reward (critic_r1/score); " in page
    assert "KL to the reference model (actor/kl_loss)" in page, "a metric that is never a number is not there"
    assert "Gradient norm (" not in page


def test_image_that_is_nowhere_is_said_on_its_card(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", pairs=1, steps=1)
    next((run / "data").rglob("*.parquet")).unlink()
    cards = json.loads(Tags(build_report(run).read_text(encoding="utf-8")).scripts[1])["cards"]
    assert all(card["gone"].endswith("no Parquet file to look in; give it with --data.") for card in cards)


def test_the_same_run_gives_the_same_bytes(whole_run: Path) -> None:
    before = (whole_run / "report.html").read_bytes()
    assert build_report(whole_run).read_bytes() == before


def test_command_writes_the_page(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"name": "by command"}', encoding="utf-8")
    call = [str(Path(sys.executable).with_name("critic-r1")), "report", str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (done.returncode, Path(done.stdout.strip())) == (0, tmp_path / "report.html"), done.stderr
    assert "by command" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_only_a_report_is_replaced_and_no_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"name": "x"}', encoding="utf-8")
    precious = tmp_path / "precious.html"
    precious.write_text("<title>mine</title>", encoding="utf-8")
    with pytest.raises(FileExistsError, match="exists and is not a report"):
        build_page([str(tmp_path)], precious)
    with pytest.raises(FileExistsError, match="is a folder"):
        build_page([str(tmp_path)], tmp_path)
    build_page([str(tmp_path)], tmp_path / "out.html")
    (tmp_path / "link.html").symlink_to(tmp_path / "out.html")
    before = (tmp_path / "out.html").read_bytes()
    (tmp_path / "run.json").write_text('{"name": "y"}', encoding="utf-8")
    build_page([str(tmp_path)], tmp_path / "link.html")
    assert (tmp_path / "out.html").read_bytes() == before
    assert precious.read_text(encoding="utf-8") == "<title>mine</title>"


@pytest.mark.parametrize("with_training", [False, True])
def test_secrets_in_settings_and_addresses_are_hidden(tmp_path: Path, with_training: bool) -> None:
    url = "https://me:s3cret@host/v1?api_key=s3cret"
    judge: dict[str, Any] = {
        "model": url,
        "base_url": url,
        "api_key": "s3cret",
        "headers": [{"Authorization": "s3cret"}],
    }
    judge |= {"benchmark": url, "records_lost": {f"fetch {url}": 3}}
    (tmp_path / "judge.json").write_text(json.dumps(judge), encoding="utf-8")
    (tmp_path / "judgements.jsonl").write_text('{"pair_id": "p"}\n', encoding="utf-8")
    if with_training:
        info = {"name": "x", "settings": {"logger": {"url": url}}, "machine": {"host": url}, "control": {"at": url}}
        (tmp_path / "run.json").write_text(json.dumps(info), encoding="utf-8")
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert "s3cret" not in page
    assert "@host/v1" in page


def test_what_no_chart_can_hold_is_not_drawn(tmp_path: Path) -> None:
    huge = "1" + "0" * 400
    values = ("NaN", "Infinity", "1e999", huge, "-1e308", "true", '"x"', "null", "[]", "0.5")
    lines = [f'{{"step": {n}, "data": {{"actor/grad_norm": {value}}}}}' for n, value in enumerate(values)]
    point = '{"value": 1e308, "low": -1e308, "high": NaN, "n_candidates": 1048576, "tokens": Infinity, "judgements": 1}'
    files = {
        "run.json": '{"name": "x", "stages": [{"name": "a", "seconds": NaN}, {"name": "b", "seconds": 1e300}]}',
        "train/metrics.jsonl": "\n".join(lines),
        "best_of_n.json": f'{{"curves": {{"oracle": [{point}], "majority": []}}, "bill": {{"matches": NaN}}}}',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert "step 9: gradient norm 0.5" in page
    assert "step 3: gradient norm –" in page


# --- charts ---


def test_chart_reads_out_each_value_and_survives_gaps() -> None:
    lines = [ChartLine("a", [0.5, None, 0.75]), ChartLine("b", [float("nan"), 0.1, 0.2])]
    chart = line_chart("k", "Title", [1, 2, 3], lines, percent=True)
    assert chart.readout["text"] == ["step 1: a 50.0 % · b –", "step 2: a – · b 10.0 %", "step 3: a 75.0 % · b 20.0 %"]
    xs = chart.readout["x"]
    assert isinstance(xs, list)
    assert xs == sorted(xs)
    assert 0 < xs[0] < xs[-1] < 360, "places are in the units of the view box"


def test_chart_colours_are_the_pages_variables_and_ids_are_its_own() -> None:
    one = line_chart("one", "T", [1, 2], [ChartLine("a", [1.0, 2.0])], level=0.5)
    two = stacked_chart("two", "T", [1, 2], [ChartLine("a", [1.0, 2.0]), ChartLine("b", [1.0, None])])
    for chart in (one, two):
        assert "#0a0" not in chart.svg, "a stand-in colour was left"
        assert "var(--series-1)" in chart.svg
    ids = [set(re.findall(r' id="([^"]+)"', chart.svg)) for chart in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for chart, own in zip((one, two), ids, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', chart.svg)) == own


def test_rolling_mean_leaves_gaps_out() -> None:
    import numpy as np

    means = rolling_mean(np.array([1.0, np.nan, 3.0, 5.0, np.nan, np.nan]), 2)
    np.testing.assert_array_equal(means, [1.0, 1.0, 3.0, 4.0, 5.0, np.nan])


def test_time_split_adds_up_to_the_step() -> None:
    data = {"timing_s/gen": 2.0, "timing_s/update_actor": 3.0, "timing_s/step": 6.5}
    charts, missing = training_curves([Step(step=1, data=data)])
    assert [chart.readout["text"] for chart in charts] == [["step 1: generate 2 · update 3 · other 1.5"]]
    assert len(missing) == 10


@pytest.mark.parametrize(
    ("data", "texts", "is_missing"),
    [
        (
            {"critic_r1/reason/ok": 0.7, "critic_r1/reason/no_box": 0.2, "critic_r1/reason/box_in_think": 0.1},
            ["step 1: no_box 20.0 % · box_in_think 10.0 %"],
            False,
        ),
        # Nothing went wrong: no chart, and nothing is missing either.
        ({"critic_r1/reason/ok": 1.0, "critic_r1/reason/no_box": 0.0}, None, False),
        ({"critic_r1/accuracy": 1.0}, None, True),
    ],
)
def test_faults_of_form_leave_the_sound_responses_out(
    data: dict[str, float], texts: list[str] | None, is_missing: bool
) -> None:
    charts, missing = training_curves([Step(step=1, data=data)])
    found = [chart.readout["text"] for chart in charts if chart.title == "Format errors"]
    assert found == ([] if texts is None else [texts])
    assert any("Format errors" in title for title in missing) == is_missing


def test_a_critic_that_rewards_has_curves_of_its_own() -> None:
    judge = {"spread": 0.5, "unjudged": 0.0, "flipped": 0.25, "unreadable": 0.01, "first_place": 0.6}
    data = {f"critic_r1/judge/{name}": value for name, value in judge.items()}
    probe = {"critic_r1/probe/agreement": 0.9, "critic_r1/probe/accuracy": 0.8}
    every = [Step(step=step, data=data | (probe if step % 10 == 0 else {})) for step in range(1, 101)]
    charts, missing = training_curves(every)
    assert {chart.title: chart.readout["text"][9] for chart in charts} == {  # type: ignore[index]
        "Judged groups": "step 10: spread of the scores 50.0 % · unjudged groups 0.0 %",
        "Habits of the critic that rewards": "step 10: flipped 25.0 % · unreadable 1.0 % · for the first place 60.0 %",
        "The model as a critic": "step 10: agreement with the start 90.0 % · accuracy 80.0 %",
    }
    named = " ".join([*missing, *training_curves([Step(step=1, data={"critic_r1/score": 1.0})])[1]])
    assert "judge/" not in named
    assert "probe/" not in named
    line = re.search(r'<path d="([^"]+)"[^>]*var\(--series-1\); stroke-width: 1.8', charts[-1].svg)
    assert line is not None
    assert line[1].count("L") == 9, "measured every ten steps, and yet a line"


def test_perfect_agreement_has_a_place_on_the_log_axis() -> None:
    steps = [Step(step=1, data={"training/rollout_actor_probs_pearson_corr": 1.0})]
    charts, _ = training_curves(steps)
    assert charts[0].readout["text"] == ["step 1: 1 − Pearson 6e-08"]


def test_best_of_n_stands_side_by_side_on_one_axis() -> None:
    def curves(value: float, *pools: str) -> ResultFile:
        point = CurvePoint(n_candidates=4, value=value, low=value - 0.1, high=value + 0.1)
        return ResultFile(curves={f"{pool}/{name}": [point] for pool in pools for name in ("oracle", "knock_out")})

    run = Run(Path("run"), "run")
    run.measured = [
        Measured("held-out", "before", curves(0.3, "best_of_8")),
        Measured("held-out", "after", curves(0.6, "best_of_8", "best_of_8_other")),
    ]
    charts = best_of_n_charts(make_boards([run]))
    assert [(chart.title, "another policy" in chart.note) for chart in charts] == [
        ("Knock-out, side by side", False),
        ("Best of N: before", False),
        ("Best of N: after", False),
        ("Best of N: after", True),
    ]
    assert charts[0].readout["text"] == ["candidates 4: before 30.0 % [20.0 %, 40.0 %] · after 60.0 % [50.0 %, 70.0 %]"]
    assert charts[2].readout["text"] == [
        "candidates 4: knock-out by its own critic 60.0 % [50.0 %, 70.0 %] · oracle 60.0 % [50.0 %, 70.0 %]"
    ]
    run.measured = [Measured("held-out", "after", ResultFile())]
    assert best_of_n_charts(make_boards([run])) == []


def test_curves_of_several_runs_share_their_steps() -> None:
    def steps(*at: int) -> list[Step]:
        return [Step(step=step, data={"critic_r1/accuracy": step / 10, "timing_s/step": 2.0}) for step in at]

    charts = {chart.title: chart.readout["text"] for chart in compared_curves({"a": steps(1, 2), "b": steps(2, 3)})}
    assert charts["Critic accuracy in training"] == [
        "step 1: a 10.0 % · b –",
        "step 2: a 20.0 % · b 20.0 %",
        "step 3: a – · b 30.0 %",
    ]
    assert charts["Step time"] == ["step 1: a 2 · b –", "step 2: a 2 · b 2", "step 3: a – · b 2"]
    assert len(charts) == 2, "what no run has logged is not drawn"
