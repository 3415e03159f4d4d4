"""A server whose critic compares numbers, rows to label, and a run of `critic-r1 label`."""

import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from data_prep.tasks.pairwise import Image
from recipe.critic_r1.cli.label import register
from recipe.critic_r1.labeling.questions import LabelPrompt
from tests.judging.fake_server import Behaviour, FakeServer, answer, say

APP = typer.Typer(no_args_is_help=True)
register(APP)


@APP.callback()
def _group() -> None:
    """Keeps `label` a command of its own although it is the only one."""


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("L", (8, 8), shade).save(stream, "PNG")
    return stream.getvalue()


def prompt(*responses: str, shade: int = 0) -> LabelPrompt:
    return LabelPrompt("f.jsonl", 0, "", (Image(png(shade)),), "How many?", responses)


def larger(first: int, second: int) -> object:
    return 1 if first > second else 2


def served(critic: Callable[[int, int], object] = larger, samples: Callable[[int], object] = lambda i: i) -> Behaviour:
    """A critic that sees two numbers, and may name a fault; a policy that answers 0, 1, 2, ..."""

    def behaviour(attempt: int, body: dict[str, Any]) -> Any:
        text = "".join(part.get("text", "") for part in body["messages"][0]["content"])
        pair = re.search(r"Response 1: (\d+)\nResponse 2: (\d+)", text)
        if pair:
            verdict = critic(int(pair[1]), int(pair[2]))
            return verdict if isinstance(verdict, str) and verdict.isdigit() else answer(body, say(verdict))
        sampled = answer(body)
        for i, choice in enumerate(sampled["choices"]):
            choice["message"]["content"] = str(samples(i))
        return sampled

    return behaviour


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def words(url: str, data: Path, out: Path, *options: object) -> list[str]:
    command = ["label", data, *options, "--model", "critic", "--base-url", url, "--out", out, "--template", "compact"]
    return [str(word) for word in command]


@dataclass(frozen=True)
class Labelled:
    """What a run of `critic-r1 label` printed, wrote and asked."""

    out: Path
    output: str
    """In one line, without the frame that the terminal draws."""
    asked: list[dict[str, Any]]

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.out / "label.json").read_text())  # type: ignore[no-any-return]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        return self.report["counts"]  # type: ignore[no-any-return]

    def lines(self, name: str) -> list[dict[str, Any]]:
        return lines_of(self.out / name)

    def tasks(self) -> list[dict[str, Any]]:
        (file,) = (self.out / "tasks").glob("*.parquet")
        return pq.read_table(file).to_pylist()  # type: ignore[no-any-return]


Label = Callable[..., Labelled]


@pytest.fixture
def label(tmp_path: Path) -> Label:
    """Labels a file with a server of this behaviour, and expects this exit status."""

    def run(data: Path, *options: object, by: Behaviour | None = None, out: str = "out", status: int = 0) -> Labelled:
        with FakeServer(by or served()) as server:
            result = CliRunner().invoke(APP, words(server.url, data, tmp_path / out, *options))
        assert result.exit_code == status, result.output
        return Labelled(tmp_path / out, " ".join(result.output.replace("│", " ").split()), server.bodies)

    return run


def rows_with_images(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """JSONL in a new folder, each row with an image of its own unless it names one."""
    folder.mkdir()
    for i in range(len(rows)):
        (folder / f"{i}.png").write_bytes(png(i))
    given = [{"image": f"{i}.png", "question": "How many?"} | row for i, row in enumerate(rows)]
    return write_lines(folder / "rows.jsonl", given)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six prompts with three numbers each."""
    return rows_with_images(tmp_path / "data", [{"id": f"row-{i}", "responses": ["1", "5", "3"]} for i in range(6)])


@pytest.fixture
def without_responses(tmp_path: Path) -> Path:
    """Six prompts."""
    return rows_with_images(tmp_path / "prompts", [{} for _ in range(6)])
