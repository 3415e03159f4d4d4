"""Prompt lengths: verl's own filter against header arithmetic, on the same rows and one core, with agreement checked.

python -m benchmarks.length
"""

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer

from benchmarks.harness import RESULTS, Out, english, photo, write, write_tasks
from data_prep.tasks.pairwise import Image, PreferencePair, PreferenceTask

CASES = {"640x480": ((640, 480), 48), "2 megapixels": ((1920, 1080), 16)}
"""Name -> size of the images and number of rows."""


def tasks(size: tuple[int, int], rows: int) -> Iterator[PreferenceTask]:
    """Critic tasks whose images have about this size."""
    for i in range(rows):
        texts = (f"It shows a quiet street {i}. " * (15 + i % 10), f"It shows a beach {i}. " * 20)
        image = Image(photo((size[0] - i, size[1] + i), i, quality=85))
        pair = PreferencePair("bench", (image,), f"What does image {i} show?", texts, 0)
        yield PreferenceTask(pair, order=i % 2, index=i, split="train")


def verl_lengths(path: Path, processor: Any, limit: int) -> tuple[list[bool], float]:
    """Which rows verl's filter keeps, and the CPU seconds it took."""
    import datasets
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    datasets.disable_progress_bars()
    config = OmegaConf.create(
        {"filter_overlong_prompts": False, "filter_overlong_prompts_workers": None, "max_prompt_length": limit}
    )
    with tempfile.TemporaryDirectory() as cache, contextlib.redirect_stdout(io.StringIO()):
        datasets.config.HF_DATASETS_CACHE = Path(cache)
        dataset = RLHFDataset([str(path)], processor.tokenizer, config, processor)
        dataset.filter_overlong_prompts, dataset.num_workers = True, None
        start = time.process_time()
        kept = dataset.maybe_filter_out_long_prompts(dataset.dataframe)
        spent = time.process_time() - start
        ids = {(row["pair_id"], row["order"]) for row in kept["extra_info"]}
    every = pq.read_table(path)["extra_info"].to_pylist()
    return [(row["pair_id"], row["order"]) in ids for row in every], spent


def our_lengths(path: Path, processor: Any) -> tuple[list[int], float]:
    """Lengths by the meter, and the CPU seconds for reading, headers and tokens."""
    from data_prep.lengths.meter import PromptMeter
    from data_prep.reading.images import read_header

    meter = PromptMeter(processor)
    start = time.process_time()
    lengths: list[int] = []
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(64, columns=["prompt", "images"], use_threads=False):
            rows = batch.to_pylist()
            sizes = [[read_header(image["bytes"])[:2] for image in row["images"]] for row in rows]
            lengths += meter.measure([row["prompt"][0]["content"] for row in rows], sizes)
    return lengths, time.process_time() - start


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each, of which the fastest counts.")] = 3,
    out: Out = RESULTS / "length.json",
) -> None:
    """Measure all cases and write the result."""
    # One core, before any library starts threads, whose time would count.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import torch

    from tests.data_prep.made_processors import make_processor

    torch.set_num_threads(1)
    # The paper's pixel limits, and a tokenizer that learned English, so that a word has as many tokens as usual.
    processor = make_processor("qwen2_5_vl", english(), min_pixels=262_144, max_pixels=4_194_304)
    cases = {}
    for name, (size, rows) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "train-00000.parquet"
            write_tasks(path, tasks(size, rows))
            fast = [our_lengths(path, processor) for _ in range(repeats + 2)]
            lengths = fast[0][0]
            limit = int(np.median(lengths))
            slow = [verl_lengths(path, processor, limit) for _ in range(repeats)]
        kept, slow_s, fast_s = slow[0][0], min(s for _, s in slow), min(s for _, s in fast)
        cases[name] = {
            "rows": rows,
            "verl_rows_per_s": rows / slow_s,
            "ours_rows_per_s": rows / fast_s,
            "times_as_fast": slow_s / fast_s,
            "limit_tokens": limit,
            "kept_by_verl": sum(kept),
            "disagreements": sum(k != (length <= limit) for k, length in zip(kept, lengths, strict=True)),
        }
        print(name, cases[name])
    write(out, {"unit": "CPU seconds of one process on one core", "cases": cases})


if __name__ == "__main__":
    typer.run(main)
