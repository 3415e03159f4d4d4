"""The 1,250 published rows of VL-RewardBench through the whole preparation, with images made for them.

The rows (jsonl with id, prompt, chosen, rejected, image) are real text by real models, some of it with `\\boxed`
inside a response; the images are not shipped with them and are drawn here.

    python benchmarks/real_rows.py ROWS.jsonl --out benchmarks/results/real_rows.json
"""

import argparse
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from data_prep.checks.verl import validate
from data_prep.convert import convert
from data_prep.settings import Settings
from data_prep.tasks.prompts import neutralise
from reward_fns.preference import compute_score


def draw_images(rows: list[dict[str, Any]], folder: Path) -> None:
    """A different small image for every file name."""
    for number, row in enumerate(rows):
        path = folder / row["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise).resize((96, 72), Image.Resampling.BICUBIC).save(stream, "JPEG")
        path.write_bytes(stream.getvalue())


def main() -> None:
    """Convert, validate through verl, count, and check the quoted boxes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--out", default="benchmarks/results/real_rows.json")
    a = parser.parse_args()
    rows = [json.loads(line) for line in a.rows.read_text(encoding="utf-8").splitlines()]
    folder = Path(tempfile.mkdtemp())
    try:
        draw_images(rows, folder / "images")
        settings = Settings("generic", image_roots=(str(folder / "images"),), unit_rows=500)
        manifest = convert([str(a.rows)], folder / "tasks", settings)
        report = validate([folder / "tasks"])
        tasks = [t for s in manifest["shards"] for t in pq.read_table(folder / "tasks" / s["file"]).to_pylist()]
    finally:
        shutil.rmtree(folder)
    boxed = harmless = kept = 0
    for task in tasks:
        info, truth = task["extra_info"], task["reward_model"]["ground_truth"]
        candidates = (info["response_1"], info["response_2"])
        kept += sorted(candidates) == sorted(
            r.strip() for r in (rows[info["index"]]["chosen"], rows[info["index"]]["rejected"])
        )
        if any("\\boxed" in c for c in candidates):
            boxed += 1
            shown = task["prompt"][0]["content"]
            # The worst a judge can do: quote both responses, as it saw them, before and after its verdict.
            quotes = " ".join(map(neutralise, candidates))
            verdict = compute_score("critic/x", f"<think>{quotes}</think>\\boxed{{{truth}}} since {quotes}", truth)
            harmless += all(neutralise(c) in shown for c in candidates) and verdict["acc"] == 1.0
    result = {
        "records": manifest["records"],
        "labels": manifest["labels"],
        "rows_with_original_texts_kept": kept,
        "rows_loaded_through_verl_with_gold_score_1": report.rows - report.n_failures,
        "rows_with_boxed_in_a_response": boxed,
        "of_them_harmless": harmless,
    }
    Path(a.out).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
