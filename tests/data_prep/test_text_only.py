"""Pairs without images through the whole pipeline, beside rows with images and rows whose responses are images."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from typer.testing import CliRunner

from recipe.critic_r1.cli import app
from tests.data_prep.made_images import make_image
from tests.data_prep.made_records import GOOD
from tests.judging.fake_server import FakeServer, answer, say

SETS = ("helpsteer3", "text_preference", "ultrafeedback", "spa_vl", "hpdv3")


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks of each set."""
    folder = tmp_path_factory.mktemp("mixed")
    for n in range(8):
        (folder / f"{n}.jpg").write_bytes(make_image(n))
    for name in SETS:
        records = [GOOD[name](n) for n in range(4)]
        for n, record in enumerate(records):
            if name == "spa_vl":
                record["image"] = f"{n}.jpg"
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
        # Images of one pair may belong to different splits, and such a pair to none.
        share = () if name == "hpdv3" else ("--val-share", "0.3")
        run("prepare", name, "--input", folder / f"{name}.jsonl", "--output", folder / name, *share)
    return folder


@pytest.mark.parametrize("name", SETS)
def test_every_row_is_good_and_can_be_looked_at(name: str, folder: Path) -> None:
    assert "4 rows are good" in run("validate", folder / name)
    shown = run("show", folder / name, "-n", 4, "--html", folder / f"{name}.html")
    images = {"spa_vl": 1, "hpdv3": 2}.get(name, 0)
    assert shown.count(f"{images} image(s)") == 4
    assert ("picture" in shown) == (images > 0)
    assert (folder / f"{name}.html").read_text().count("<img") == 4 * images


def test_verl_takes_all_of_them_as_one_training_set(folder: Path) -> None:
    from recipe.critic_r1.images.dataset import EncodedImageDataset

    files = [str(path) for name in SETS for path in sorted((folder / name).glob("*.parquet"))]
    schemas = {pq.read_schema(path) for path in files}
    assert len(schemas) == 1
    config = OmegaConf.create({"filter_overlong_prompts": False, "cache_dir": str(folder / "cache")})
    dataset = EncodedImageDataset(files, None, config, processor=object())
    assert len(dataset) == 4 * len(SETS)
    counts = []
    for row in dataset:
        content = row["raw_prompt"][0]["content"]
        parts = [] if isinstance(content, str) else content
        counts.append(sum(part["type"] == "image" for part in parts))
    assert sorted(counts) == [0] * 12 + [1] * 4 + [2] * 4


def test_judging_has_an_interval_over_questions(folder: Path, tmp_path: Path) -> None:
    """Judgements of pairs without images are as independent as their questions, not all of one cluster."""

    def first(attempt: int, body: dict[str, object]) -> dict[str, object]:
        return answer(body, say(1))

    with FakeServer(first) as server:
        run("judge", "helpsteer3", "--input", folder / "helpsteer3.jsonl", "--model", "m", "--base-url", server.url,
            "--out", tmp_path / "out")  # fmt: skip
    found = json.loads((tmp_path / "out" / "judge.json").read_text())["metrics"]["critic/accuracy"]
    assert (found["value"], found["n"]) == (0.5, 8)
    judged = [json.loads(line) for line in (tmp_path / "out" / "judgements.jsonl").read_text().splitlines()]
    assert {line["image_blake3"] for line in judged} == {""}
