r"""The 1,250 published rows of VL-RewardBench: through the whole preparation, and before a judge that always says "1".

    python -m benchmarks.published_rows prepare ROWS.jsonl
    python -m benchmarks.published_rows always-first ROWS.jsonl

The rows (id, prompt, chosen, rejected, image) are real texts by real models, some with `\boxed` in a response; the
images are not shipped with them and are made here. `prepare` converts them, loads each through verl, and checks that
the boxes that a response quotes do no harm. `always-first` runs `critic-r1 judge`: scripts that show the better
response first report 100 % for such a judge.
"""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from benchmarks.harness import COMMAND, RESULTS, Out, photo
from data_prep.checks.verl import validate
from data_prep.convert import convert
from data_prep.files import write_json
from data_prep.settings import Settings
from data_prep.tasks.prompts import neutralise
from reward_fns.preference import compute_score
from tests.judging.fake_server import FakeServer, answer

Rows = Annotated[Path, typer.Argument(help="The published rows, as jsonl.")]

METRICS = ("accuracy", "accuracy_better_first", "accuracy_better_second", "accuracy_both_orders", "swap_consistency",
           "position_bias", "parse_failures", "request_failures")  # fmt: skip

app = typer.Typer(no_args_is_help=True)


def read(path: Path, folder: Path) -> list[dict[str, Any]]:
    """The rows, with a different small image for every file name."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        (folder / row["image"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / row["image"]).write_bytes(photo((96, 72), number))
    return rows


def survives_quotes(task: dict[str, Any]) -> bool:
    """Whether the right verdict is paid for when the judge quotes both responses, as it saw them, around it."""
    truth, shown = task["reward_model"]["ground_truth"], task["prompt"][0]["content"]
    quotes = [neutralise(task["extra_info"][f"response_{place}"]) for place in (1, 2)]
    text = f"<think>{' '.join(quotes)}</think>\\boxed{{{truth}}} since {' '.join(quotes)}"
    return all(quote in shown for quote in quotes) and compute_score("critic/x", text, truth)["acc"] == 1.0


@app.command()
def prepare(file: Rows, out: Out = RESULTS / "real_rows.json") -> None:
    """Convert, validate through verl, count, and check the quoted boxes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = read(file, folder / "images")
        settings = Settings("generic", image_roots=(str(folder / "images"),), unit_rows=500)
        manifest = convert([str(file)], folder / "tasks", settings)
        report = validate([folder / "tasks"])
        tasks = [t for s in manifest["shards"] for t in pq.read_table(folder / "tasks" / s["file"]).to_pylist()]
    kept, boxed = 0, []
    for task in tasks:
        info = task["extra_info"]
        candidates, row = sorted((info["response_1"], info["response_2"])), rows[info["index"]]
        kept += candidates == sorted(text.strip() for text in (row["chosen"], row["rejected"]))
        if any("\\boxed" in text for text in candidates):
            boxed.append(survives_quotes(task))
    result = {
        "records": manifest["records"],
        "labels": manifest["labels"],
        "rows_with_original_texts_kept": kept,
        "rows_loaded_through_verl_with_gold_score_1": report.rows - report.n_failures,
        "rows_with_boxed_in_a_response": len(boxed),
        "of_them_harmless": sum(boxed),
    }
    write_json(out, result)


@app.command()
def always_first(file: Rows, out: Out = RESULTS / "always_first.json") -> None:
    """Judge the rows in the form in which they are published; the better response is first in every other."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        FakeServer(lambda n, body: answer(body, "<think>Whatever.</think>\\boxed{1}")) as server,
    ):
        folder = Path(scratch)
        records = [
            {
                "id": row["id"],
                "query": row["prompt"],
                "response": [row["chosen"], row["rejected"]][:: 1 if n % 2 else -1],
                "image": {"bytes": (folder / row["image"]).read_bytes(), "path": row["image"]},
                "human_ranking": [0, 1][:: 1 if n % 2 else -1],
            }
            for n, row in enumerate(read(file, folder))
        ]
        pq.write_table(pa.Table.from_pylist(records), folder / "test.parquet")
        command = [COMMAND, "judge", "vl_rewardbench", "--input", str(folder / "test.parquet"), "--model", "always-1"]
        subprocess.run([*command, "--base-url", server.url, "--out", str(folder / "out")], check=True)
        found = json.loads((folder / "out" / "judge.json").read_text(encoding="utf-8"))
        lines = (folder / "out" / "judgements.jsonl").read_text(encoding="utf-8").splitlines()
    groups = [line["category"] for line in map(json.loads, lines) if line["order"] == 0]
    metrics = found["metrics"]
    result = {
        "pairs": len(groups),
        "records_lost": found["records_lost"],
        "groups": {name: groups.count(name) for name in sorted(set(groups))},
        "figures": {name: metrics[f"critic/{name}"] for name in METRICS},
        "official": {name.removeprefix("official/"): metrics[name] for name in metrics if name.startswith("official/")},
    }
    write_json(out, result)


if __name__ == "__main__":
    app()
