"""Prompt lengths: verl's own filter against header arithmetic, on the same rows, on one core, with agreement checked.

python benchmarks/length.py --out benchmarks/results/length.json
"""

import argparse
import contextlib
import io
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data_prep"))

CASES = {"640x480": ((640, 480), 48), "2 megapixels": ((1920, 1080), 16)}
"""Name -> size of the images and number of rows."""


def corpus() -> list[str]:
    """English text that is at hand: our own wordings, and the documentation of the standard library."""
    import argparse as one
    import decimal as two
    import logging as three

    from data_prep.tasks.prompts import WORDINGS

    texts = [w.render("What is shown?", "It shows a quiet street.", "It shows a beach.") for w in WORDINGS.values()]
    return texts + [str(v.__doc__) for m in (one, two, three) for v in vars(m).values() if getattr(v, "__doc__", None)]


def make_rows(folder: Path, size: tuple[int, int], rows: int) -> Path:
    """Critic tasks whose images have about this size."""
    from data_prep.tasks.ordering import preference_tasks
    from data_prep.tasks.pairwise import Image, PreferencePair
    from data_prep.writer import write_parquet

    rng = np.random.default_rng(1)
    pairs = []
    for i in range(rows):
        noise = PIL.Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        stream = io.BytesIO()
        noise.resize((size[0] - i, size[1] + i), PIL.Image.Resampling.BICUBIC).save(stream, "JPEG", quality=85)
        texts = (f"It shows a quiet street {i}. " * (15 + i % 10), f"It shows a beach {i}. " * 20)
        pairs.append(PreferencePair("bench", (Image(stream.getvalue()),), f"What does image {i} show?", texts, 0))
    write_parquet(preference_tasks(pairs), folder)
    return folder / "train-00000.parquet"


def verl_lengths(path: Path, processor: Any) -> tuple[list[bool], float, int]:
    """Which rows verl's filter keeps, the CPU seconds it took, and the limit used (the median length)."""
    import datasets
    import pyarrow.parquet as pq
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    datasets.disable_progress_bars()
    limit = int(np.median(our_lengths(path, processor)[0]))
    config = OmegaConf.create(
        {"filter_overlong_prompts": True, "filter_overlong_prompts_workers": None, "max_prompt_length": limit}
    )
    with tempfile.TemporaryDirectory() as cache, contextlib.redirect_stdout(io.StringIO()):
        datasets.config.HF_DATASETS_CACHE = Path(cache)
        config.filter_overlong_prompts = False
        dataset = RLHFDataset([str(path)], processor.tokenizer, config, processor)
        dataset.filter_overlong_prompts, dataset.num_workers = True, None
        start = time.process_time()
        kept = dataset.maybe_filter_out_long_prompts(dataset.dataframe)
        spent = time.process_time() - start
        ids = {row["pair_id"] for row in kept["extra_info"]}
    every = [row["pair_id"] for row in pq.read_table(path)["extra_info"].to_pylist()]
    return [i in ids for i in every], spent, limit


def our_lengths(path: Path, processor: Any) -> tuple[list[int], float]:
    """Lengths by the meter, and the CPU seconds for reading, headers and tokens."""
    import pyarrow.parquet as pq

    from data_prep.lengths.meter import PromptMeter
    from data_prep.reading.images import read_header

    meter = PromptMeter(processor)
    start = time.process_time()
    lengths: list[int] = []
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(64, columns=["prompt", "images"], use_threads=False):
            rows = batch.to_pylist()
            headers = [[read_header(i["bytes"]) for i in row["images"]] for row in rows]
            sizes = [[(h.width, h.height) for h in row] for row in headers]
            lengths += meter.measure([row["prompt"][0]["content"] for row in rows], sizes)
    return lengths, time.process_time() - start


def main() -> None:
    """Measure all cases and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="benchmarks/results/length.json")
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    # One core, before any library starts threads, whose time would count.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import torch
    from made_processors import make_processor

    torch.set_num_threads(1)
    # The paper's pixel limits.
    # A tokenizer that learned English words has about as many tokens a word as a real one.
    processor = make_processor("qwen2_5_vl", corpus(), min_pixels=262_144, max_pixels=4_194_304)
    report: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, one used; Python {platform.python_version()}",
        "unit": "CPU seconds of one process",
        "cases": {},
    }
    for name, (size, rows) in CASES.items():
        folder = Path(tempfile.mkdtemp())
        try:
            path = make_rows(folder, size, rows)
            slow = [verl_lengths(path, processor) for _ in range(a.repeats)]
            fast = [our_lengths(path, processor) for _ in range(a.repeats + 2)]
        finally:
            shutil.rmtree(folder)
        kept, _, limit = slow[0]
        lengths = fast[0][0]
        slow_s, fast_s = min(s for _, s, _ in slow), min(s for _, s in fast)
        report["cases"][name] = {
            "rows": rows,
            "verl_rows_per_s": rows / slow_s,
            "ours_rows_per_s": rows / fast_s,
            "times_as_fast": slow_s / fast_s,
            "limit_tokens": limit,
            "kept_by_verl": sum(kept),
            "disagreements": sum(k != (length <= limit) for k, length in zip(kept, lengths, strict=True)),
        }
    Path(a.out).write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
