"""Several runs on one page: figures, comparison and set-up, read from the HTML as it stands."""

import html
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recipe.critic_r1.cli import app
from recipe.critic_r1.judging.comparison import compare
from recipe.critic_r1.report import build_page
from tests.report.made_judge import benchmark, judgements, make_best_of_n, make_judge_run, write_benchmark
from tests.report.made_run import make_run


@pytest.fixture(scope="module")
def text(judge_runs: Path) -> str:
    """What a reader sees before any script runs, without tags."""
    page = (judge_runs / "report.html").read_text(encoding="utf-8")
    body = page[page.index("<main") : page.index("</main>")]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


def test_figures_stand_as_the_files_have_them(text: str, judge_runs: Path) -> None:
    for name in ("base", "tuned"):
        metrics = json.loads((judge_runs / name / "judge.json").read_text(encoding="utf-8"))["metrics"]
        for figure in ("official/macro", "critic/accuracy_both_orders", "category/reasoning/swap_consistency"):
            one = metrics[figure]
            printed = f"{100 * one['value']:.1f} % {100 * one['low']:.1f} to {100 * one['high']:.1f} % · n = {one['n']}"
            assert printed in text, (name, figure)


def test_two_judges_are_compared_pair_by_pair(text: str) -> None:
    listed = benchmark(90)
    expected = compare(judgements(listed, 0.5, 1), judgements(listed, 0.85, 2))
    change = expected.figures["accuracy"].difference
    assert change.value is not None
    assert change.low is not None
    assert change.high is not None
    assert (
        f"better +{100 * change.value:.1f} points +{100 * change.low:.1f} to +{100 * change.high:.1f} (95 %, paired)"
        in text
    )
    assert f"only base is right in every order on {expected.only_first}, only tuned on {expected.only_second}" in text
    assert f"McNemar's exact test p = {expected.p_value:.2g}" in text


def test_best_of_n_shows_curves_and_costs(text: str) -> None:
    assert "Best of 8: picked by knock-out 46.0 % → 64.0 %" in text
    assert "Cost: knock-out by its own critic, sampled_a" in text
    assert "8 46.0 % 14 8,700 250" in text
    assert "Cost: majority" not in text, "which asks for no judgement"


def test_policy_figures_keep_their_scale(text: str) -> None:
    assert "Chart: made_qa 50.0 % → 62.0 % better +12.0 points" in text
    assert "General: made_score 1,500 → 1,512 no clear change +12" in text


def test_tasks_without_a_figure_are_named(text: str) -> None:
    assert "policy_a: made_video has no metric: 3 of 90 requests failed." in text


def test_set_up_says_what_differs(judge_runs: Path) -> None:
    page = (judge_runs / "report.html").read_text(encoding="utf-8")
    table = page[page.index("What differs") :]
    row = table[table.index('<th scope="row">model') :].split("</tr>")[0]
    assert html.unescape(re.sub(r"<[^>]+>", "|", row)).split("|")[3:6:2] == ["base <model>", "tuned"]
    assert "sampling.temperature" not in table.split("</table>")[0], "the same in both judge runs"


def test_sections_that_no_run_has_are_left_out(text: str, whole_run: Path) -> None:
    assert "Training" not in text
    assert "No training curves" not in text
    assert "All categories" not in (whole_run / "report.html").read_text(encoding="utf-8")


def test_training_runs_share_curves_and_count_from_their_start(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, pairs=2, steps=3, name="demo") for name in ("seed0", "seed1")]
    record = json.loads((runs[1] / "run.json").read_text(encoding="utf-8"))
    (runs[1] / "run.json").write_text(json.dumps(record | {"seed": 1}), encoding="utf-8")
    out = tmp_path / "both.html"
    result = CliRunner().invoke(app, ["report", *map(str, runs), "--out", str(out)])
    assert (result.exit_code, result.stdout.strip()) == (0, str(out))
    page = out.read_text(encoding="utf-8")
    assert "seed0 · before to seed0 · after; seed1 · before to seed1 · after" in page
    assert "mean change over 2 runs" in page
    readouts = json.loads(re.findall(r'id="readouts">(.*?)</script>', page, re.DOTALL)[0])
    assert any("step 1: seed0 " in line and " · seed1 " in line for chart in readouts for line in chart["text"])


def test_a_name_is_text(tmp_path: Path) -> None:
    runs = [make_best_of_n(tmp_path / "a", 0.1), make_best_of_n(tmp_path / "b", 0.2)]
    name = "<script>x</script>'\"&"
    page = build_page([f"{name}={runs[0]}", f"<b>={runs[1]}"], tmp_path / "out.html").read_text(encoding="utf-8")
    assert html.escape(name, quote=False) in page.replace("&#39;", "'").replace("&#34;", '"')
    body = page[page.index("<body") : page.index('<script type="application/json"')]
    assert "<script" not in body
    assert "<b>" not in re.sub(r"<b>[^<]*</b>", "", body), "ours hold a label each"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{root}"], "judge.json, best_of_n.json and eval_policy.json: give the folder"),
        (["{root}/a", "{root}/a"], "give each folder once"),
        (["{root}/a", "--data", "{root}/nothing"], "nothing does not exist; give Parquet files"),
    ],
)
def test_command_says_what_is_wrong(tmp_path: Path, arguments: list[str], message: str) -> None:
    make_judge_run(tmp_path / "a", benchmark(2), 0.5, 1)
    result = CliRunner().invoke(app, ["report", *(text.format(root=tmp_path) for text in arguments)])
    assert result.exit_code == 2
    assert message in result.stderr


def test_one_judge_run_writes_into_its_folder_and_finds_its_tasks(tmp_path: Path, large_run: Path) -> None:
    page = (large_run / "report.html").read_text(encoding="utf-8")
    assert page.count('id="image-') == 1250, "each image once"
    make_judge_run(tmp_path / "a", benchmark(2), 0.5, 1)
    result = CliRunner().invoke(app, ["report", str(tmp_path / "a")])
    assert Path(result.stdout.strip()) == tmp_path / "a" / "report.html"
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "no Parquet file to look in; give it with --data" in page

    bench = write_benchmark(tmp_path / "bench", benchmark(2))
    record = json.loads((tmp_path / "a" / "judge.json").read_text(encoding="utf-8"))
    (tmp_path / "a" / "judge.json").write_text(json.dumps(record | {"data": [str(bench)]}), encoding="utf-8")
    page = build_page([str(tmp_path / "a")]).read_text(encoding="utf-8")
    assert 'id="image-0"' not in page, "outside the run's folder"
    assert f"the run&#39;s record names {bench}." in page
    page = build_page([str(tmp_path / "a")], data=[bench]).read_text(encoding="utf-8")
    assert 'id="image-0"' in page
    assert "Missing from this page" not in page
    bench.rename(tmp_path / "a" / "made of it")
    inside = record | {"data": [str(tmp_path / "a" / "made of it"), 7, None, "nul \0"]}
    (tmp_path / "a" / "judge.json").write_text(json.dumps(inside), encoding="utf-8")
    page = build_page([str(tmp_path / "a")]).read_text(encoding="utf-8")
    assert 'id="image-0"' in page, "where its record says, inside its folder"
