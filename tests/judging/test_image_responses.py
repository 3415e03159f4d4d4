"""Multimodal RewardBench 2 from its release's file to its figures: four tasks, images in responses, both orders."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from recipe.critic_r1.cli.judge import register
from tests.data_prep.made_images import make_image
from tests.judging.fake_server import FakeServer, answer, say

APP = typer.Typer()
register(APP)

NUMBER = {base64.b64encode(make_image(n)).decode(): n for n in range(8)}


def part(text: str) -> list[list[str]]:
    """`a [3] b` as the parts of the release."""
    pieces = re.split(r"\[(\d)\]", text)
    made = [["image", f"{piece}.jpg"] if n % 2 else ["text", piece] for n, piece in enumerate(pieces)]
    return [piece for piece in made if piece[1]]


PAIRS = (
    # set of the prompt, prompt, response A, response B, chosen
    ("wise", "Draw 1.", "[7]", "[1]", "A"),
    ("evalmuse", "Draw 2.", "[1]", "[7]", "B"),
    ("emu-edit", "[0]Edit 1.", "[7]", "[1]", "A"),
    ("dreambench", "[0][2]Edit 2.", "[1]", "[7]", "B"),
    ("hq-edit", "[0]Edit 3.", "[2]", "[1]", "B"),
    ("risebench", "[3]Edit 4.", "[2]", "[1]", "A"),
    ("isgbench", "Go on from [0].", "First [1], then [7].", "First [2].", "A"),
    ("mmmg", "Go on.", "First [1].", "First [7], then [2].", "A"),
    ("blink", "Compare [0] and [1].", "It is this: [7].", "It is that.", "A"),
    ("visulogic", "Without an image.", "Wrong.", "Right: 7.", "B"),
)


def looks(attempt: int, body: dict[str, Any]) -> dict[str, Any]:
    """Takes the response with a 7 in it, the first one on edits; cannot say for `blink` when the 7 comes second."""
    shown = "".join(
        p["text"] if p["type"] == "text" else f"[{NUMBER[p['image_url']['url'].partition('base64,')[2]]}]"
        for p in body["messages"][0]["content"]
    )
    request, first, second = re.split(r"Response [12]:\n", shown.partition("\n\nBefore you decide")[0])
    if "Edit" in request:
        return answer(body, say(1))
    if "Compare" in request and "7" in second:
        return answer(body, "<think>Hm.</think> I cannot say.")
    assert ("7" in first) != ("7" in second)
    return answer(body, say(1 if "7" in first else 2))


def test_figures_to_the_letter(tmp_path: Path) -> None:
    for n in range(8):
        (tmp_path / f"{n}.jpg").write_bytes(make_image(n))
    pairs = [
        {"id": f"{source}_{n}", "prompt_source": source, "prompt_content": part(prompt), "chosen": chosen,
         "response_a": {"model_name": "a", "response_content": part(a)},
         "response_b": {"model_name": "b", "response_content": part(b)}}
        for n, (source, prompt, a, b, chosen) in enumerate(PAIRS)
    ]  # fmt: skip
    (tmp_path / "all.json").write_text(json.dumps({"pairs": pairs}, indent=2))
    with FakeServer(looks) as server:
        command = ["judge", "multimodal_rewardbench_2", "--input", tmp_path / "all.json", "--model", "m", "--base-url",
                   server.url, "--out", tmp_path / "out"]  # fmt: skip
        result = CliRunner().invoke(APP, [str(word) for word in command])
    assert result.exit_code == 0, result.output
    assert len(server.bodies) == 2 * len(PAIRS)
    metrics = json.loads((tmp_path / "out" / "judge.json").read_text())["metrics"]
    official = {
        name.removeprefix("official/"): e["value"] for name, e in metrics.items() if name.startswith("official/")
    }
    assert official == pytest.approx(
        {
            "overall": 13 / 20,
            "macro": (1 + 1 / 2 + 1 / 2 + 3 / 4) / 4,
            "category/t2i": 1.0,
            "category/edit": 1 / 2,
            "category/interleaved": 1 / 2,
            "category/reasoning": 3 / 4,
        }
    )
    assert metrics["critic/position_bias"]["value"] == pytest.approx(4 / 9), "of the pairs with two verdicts"
    judged = [json.loads(line) for line in (tmp_path / "out" / "judgements.jsonl").read_text().splitlines()]
    by_pair: dict[str, set[str]] = {}
    for line in judged:
        by_pair.setdefault(line["pair_id"], set()).add(line["image_blake3"])
    assert all(len(names) == 1 for names in by_pair.values()), "both orders of a pair are of the same images"
