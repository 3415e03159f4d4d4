r"""A judge that always says "1", on the 1,250 published rows of VL-RewardBench, by `critic-r1 judge`.

    python -m benchmarks.always_first ROWS.jsonl --out benchmarks/results/always_first.json

The rows (jsonl with id, prompt, chosen, rejected, image) are the published ids and texts; the images are not shipped
with them and are drawn. Scripts that show the better response first report 100 % for this judge. Beside it stands what
such a script would report, the accuracy where the better response stands first.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from benchmarks.real_rows import draw_images
from tests.judging.fake_server import FakeServer, answer

FIGURES = ("accuracy", "accuracy_better_first", "accuracy_better_second", "accuracy_both_orders", "swap_consistency",
           "position_bias", "parse_failures", "request_failures")  # fmt: skip


def publish(rows: list[dict[str, Any]], folder: Path) -> Path:
    """The rows in the form in which VL-RewardBench is published; the better response stands first in every other."""
    draw_images(rows, folder)
    records = [
        {
            "id": row["id"],
            "query": row["prompt"],
            "response": [row["chosen"], row["rejected"]][:: 1 if n % 2 else -1],
            "image": {"bytes": (folder / row["image"]).read_bytes(), "path": row["image"]},
            "human_ranking": [0, 1][:: 1 if n % 2 else -1],
        }
        for n, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(records), folder / "test.parquet")
    return folder / "test.parquet"


def main(
    rows: Annotated[Path, typer.Argument(help="The published rows, as jsonl.")],
    out: Annotated[Path, typer.Option(help="Result file.")] = Path("benchmarks/results/always_first.json"),
) -> None:
    """Judge the rows and write the figures."""
    published = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    with (
        tempfile.TemporaryDirectory() as folder,
        FakeServer(lambda n, body: answer(body, "<think>Whatever.</think>\\boxed{1}")) as server,
    ):
        file, judged = publish(published, Path(folder)), Path(folder) / "out"
        command = ["judge", "vl_rewardbench", "--input", str(file), "--model", "always-1", "--base-url", server.url]
        subprocess.run([sys.executable, "-m", "recipe.critic_r1.cli", *command, "--out", str(judged)], check=True)
        found = json.loads((judged / "judge.json").read_text(encoding="utf-8"))
        lines = [json.loads(line) for line in (judged / "judgements.jsonl").read_text(encoding="utf-8").splitlines()]
    metrics = found["metrics"]
    groups = [line["category"] for line in lines if line["order"] == 0]
    result = {
        "pairs": len(groups),
        "records_lost": found["records_lost"],
        "groups": {name: groups.count(name) for name in sorted(set(groups))},
        "figures": {name: metrics[f"critic/{name}"] for name in FIGURES},
        "official": {name.removeprefix("official/"): metrics[name] for name in metrics if name.startswith("official/")},
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    typer.run(main)
