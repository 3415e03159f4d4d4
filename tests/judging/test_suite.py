"""`judge suite.yaml`: several benchmarks, one table; mistakes are found before the first request."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from recipe.critic_r1.cli.judge import register
from recipe.critic_r1.cli.output import console
from recipe.critic_r1.judging.suite import read_suite
from tests.judging.fake_server import FakeServer
from tests.judging.test_benchmarks import likes_dogs, publish

APP = typer.Typer()
register(APP)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which a row of the table is a line."""
    monkeypatch.setattr(console, "_width", 200)


def run(path: Path, url: str, out: Path, *words: str) -> Any:
    command = ["judge", str(path), "--model", "m", "--base-url", url, "--out", str(out), *words]
    return CliRunner().invoke(APP, command)


def suite(folder: Path, names: tuple[str, ...], **more: Any) -> Path:
    entries = {}
    for name in names:
        (folder / name).mkdir()
        entries[name] = {"input": str(publish(name, folder / name)), "image_root": str(folder / name)}
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"benchmarks": entries, **more}))
    return path


def test_one_table_of_all(tmp_path: Path) -> None:
    path = suite(tmp_path, ("vl_rewardbench", "mm_rlhf_rewardbench"), limit=8)
    with FakeServer(likes_dogs) as server:
        result = run(path, server.url, tmp_path / "out")
        assert result.exit_code == 0, result.output
        asked = len(server.bodies)
        assert run(path, server.url, tmp_path / "out").exit_code == 0
        assert len(server.bodies) == asked == 32, "paid once"
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines() if "│" in line]
    table = {row[0]: row[1:] for row in cells if row[0].endswith("bench") and len(row) > 4}
    assert table["vl_rewardbench"][0] == f"{11 / 16:.3f}"
    assert (table["mm_rlhf_rewardbench"][0], table["mm_rlhf_rewardbench"][3]) == (f"{15 / 16:.3f}", "0.875")
    assert table["vl_rewardbench"][3] == "-"
    found = json.loads((tmp_path / "out" / "suite.json").read_text())
    assert found["failed"] == {}
    assert found["benchmarks"]["vl_rewardbench"]["official/overall"]["value"] == pytest.approx(11 / 16)


def test_a_benchmark_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    path = suite(tmp_path, ("vl_rewardbench", "mm_rlhf_rewardbench"))
    (tmp_path / "vl_rewardbench" / "in.parquet").unlink()
    with FakeServer(likes_dogs) as server:
        result = run(path, server.url, tmp_path / "out")
    assert result.exit_code == 2
    assert "failed: vl_rewardbench" in result.output
    found = json.loads((tmp_path / "out" / "suite.json").read_text())
    assert (found["failed"], list(found["benchmarks"])) == ({"vl_rewardbench": 2}, ["mm_rlhf_rewardbench"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("benchmarks: {}", "benchmarks: "),
        ("benchmarks: {vl_rewardbench: {}}", "benchmarks.vl_rewardbench.input: Field required"),
        ("benchmarks: {vl_rewardbench: {input: []}}", "benchmarks.vl_rewardbench.input: "),
        ("benchmarks: {vl_rewardbench: {input: a, votes: 3}}", "benchmarks.vl_rewardbench.votes: Extra inputs"),
        ("benchmarks: {vl_reward: {input: a}}", "there is no benchmark 'vl_reward'"),
        ("benchmarks: {mm_rlhf_rewardbench: {input: a}}", "give their folder or zip as image_root"),
        ("benchmarks: {vl_rewardbench: {input: a}}\nlimit: 0", "limit: "),
        ("a: [", "is not YAML"),
        ("7", "the file: "),
    ],
)
def test_a_suite_that_cannot_be_meant(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"suite\.yaml") as error:
        read_suite(tmp_path / "suite.yaml")
    assert message in str(error.value)
    assert run(tmp_path / "suite.yaml", "http://127.0.0.1:9/v1", tmp_path / "out").exit_code == 2


def test_the_suite_says_the_input_itself(tmp_path: Path) -> None:
    path = suite(tmp_path, ("vl_rewardbench",))
    assert run(path, "http://127.0.0.1:9/v1", tmp_path / "out", "--input", "x").exit_code == 2
    assert run(tmp_path / "absent.yaml", "http://127.0.0.1:9/v1", tmp_path / "out").exit_code == 2


def test_the_suite_of_the_documentation_can_be_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "judging.md").read_text()
    (tmp_path / "suite.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    assert len(read_suite(tmp_path / "suite.yaml").benchmarks) == 3
