"""What images cost on the host, on verl's own path and on ours, in real training runs on the CPU.

    python -m benchmarks.images

For each size of image and each number of rollouts n, three steps of GRPO (Ray, FSDP2, vLLM, TransferQueue, a tiny
Qwen2.5-VL that takes images up to 4,194,304 pixels) with ``critic_r1.image_path`` ``stock`` and ``shared``, one after
the other. The images are smooth scenes with noise, as JPEG of quality 90. Measured over steps 2 and 3:

- images through the image processor, by process: the agent loop (prompt tokens), the training worker (pixels), the
  rollout engine (its own pass, the same on both paths)
- host CPU: seconds a rollout of all processes together, less what their models compute (`benchmarks.image_probe`)
- bytes to and from TransferQueue, a rollout, as its clients send and receive them

and over all steps the peak memory of all processes together (a page shared by several counts once) above the level just
before the first image went through the image processor, and which processes held it.

A step is small here, so what it costs whatever is in it (verl, vLLM, polling, logs) weighs more than in a real one; and
the model's activations, which on a GPU would not be host memory, are in the training worker's share on both paths. Two
controls tell how much that is: ``none``, the same questions without images, and ``4 MP as text``, with as many tokens
of text as the largest image takes. ``ratio`` compares all that a path takes, ``ratio_beyond_text`` what it takes
beyond its control (for memory: of the two peaks).
"""

import io
import json
import math
import os
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import PIL.Image
import typer

from benchmarks.harness import RESULTS, Out, follow, training, write
from benchmarks.image_meter import CLIENTS, Meter, cpu_of, events, kind_of
from benchmarks.image_probe import FOLDER
from data_prep.tasks.pairwise import Image, PolicyTask
from data_prep.writer import write_parquet
from recipe.critic_r1.demo.model import build_model, build_tokenizer
from recipe.critic_r1.images.encoded import ImageInputs, PixelSettings
from recipe.critic_r1.preflight.memory_estimate import BYTES_PER_PIXEL
from recipe.critic_r1.training.run_log import read_lines

AS_TEXT = " as text"
"""Behind a size: a control with as many tokens of text in the place of the image."""
SIZES = {"none": (0, 0), "0.3 MP": (640, 480), "1 MP": (1152, 864), "2 MP": (1632, 1224), "4 MP": (2304, 1728)}
"""Width and height; ``none``: the same questions without an image, to tell what a step costs anyhow."""
ROLLOUTS = (2, 4, 8, 16)
PROMPTS = {"none": 24, "0.3 MP": 24, "1 MP": 8, "2 MP": 5, "4 MP": 4, "4 MP as text": 4}
"""A step's with n = 8: as many as keep ``stock`` within the memory of a small machine. With another n as many as make
the same number of rollouts."""

PATHS = ("stock", "shared")
STEPS = 3
LARGEST = 4_194_304
PIXELS_PER_TOKEN = 28 * 28
ENGINE_CACHE = 1.2
"""The rollout engine's own image cache, the same on both paths, as a multiple of what a step shows."""

MICRO_BATCH, SCORED_AT_ONCE = 4, 8
"""Rollouts, in the update and in the passes for log-probabilities, as in ``critic_grpo``."""


def photo(width: int, height: int, seed: int) -> bytes:
    """A smooth scene with a little noise, as JPEG of quality 90: about 1 bit a pixel, as photographs are."""
    draw = np.random.default_rng(seed)
    across, down = np.linspace(0, 9, width), np.linspace(0, 7, height)[:, None]
    waves = [128 + 90 * np.sin(across * draw.uniform(0.5, 2) + down * draw.uniform(0.5, 2)) for _ in range(3)]
    noisy = np.stack(waves, -1) + draw.normal(0, 3, (height, width, 3))
    stream = io.BytesIO()
    PIL.Image.fromarray(noisy.clip(0, 255).astype("uint8")).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def write_data(folder: Path, size: str, prompts: int) -> float:
    """A question about each image of a run; returns the mean size of an image's file in bytes."""
    shape, filler = SIZES[size.removesuffix(AS_TEXT)], ""
    if size.endswith(AS_TEXT):
        filler = " ".join("7" * (math.prod(shape) // PIXELS_PER_TOKEN // len(build_tokenizer().encode("7 "))))
    seen = min(shape) > 0 and not filler
    files = [photo(*shape, seed) if seen else b"" for seed in range(prompts * STEPS)]
    shown = [(Image(data, f"{i}.jpg"),) if data else () for i, data in enumerate(files)]
    tasks = [
        PolicyTask("photos", images, f"What is shown in {i}? {filler}", str(i % 10), "train", i)
        for i, images in enumerate(shown)
    ]
    write_parquet(tasks, folder)
    return float(np.mean([len(data) for data in files]))


def write_model(folder: Path) -> Path:
    """The demo's model with room for the largest images, and one block each that sees text and images.

    It is made as small as it goes, and its vision tower looks at windows only: what it computes and holds would be on
    the GPU elsewhere.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    build_model(folder, seed=0)
    found = json.loads((folder / "config.json").read_text())
    text, vision = found["text_config"], found["vision_config"]
    text |= {"max_position_embeddings": 8192, "num_hidden_layers": 1, "layer_types": ["full_attention"]}
    vision |= {"depth": 1, "fullatt_block_indexes": []}
    Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(found)).save_pretrained(folder)
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if path.exists():
            found = json.loads(path.read_text())
            image = found.get("image_processor", found)
            image["size"] = {"shortest_edge": 56 * 56, "longest_edge": LARGEST}
            path.write_text(json.dumps(found))
    return folder


def measure(model: Path, data: Path, scratch: Path, path: str, n: int, prompts: int, pixels: int) -> dict[str, Any]:
    """Train and count; `pixels` are those of an image."""
    shown_gib = prompts * pixels * BYTES_PER_PIXEL / 2**30
    load = os.getloadavg()[1]
    probe, run_dir = scratch / "probe", scratch / "run"
    probe.mkdir(parents=True)
    meter = Meter(probe=probe, messages=prompts)
    overrides = {
        "critic_r1.run_dir": run_dir,
        "critic_r1.image_path": path,
        "actor_rollout_ref.model.path": model,
        "data.train_files": data / "train-00000.parquet",
        "data.val_files": data / "train-00000.parquet",
        "data.train_batch_size": prompts,
        "data.max_prompt_length": 6142,
        "actor_rollout_ref.rollout.n": n,
        "actor_rollout_ref.rollout.max_model_len": 6200,
        "actor_rollout_ref.rollout.max_num_batched_tokens": 6200,
        "actor_rollout_ref.actor.ppo_mini_batch_size": prompts,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": MICRO_BATCH,
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": SCORED_AT_ONCE,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": SCORED_AT_ONCE,
        "actor_rollout_ref.model.enable_gradient_checkpointing": True,
        "reward.custom_reward_function.path": "pkg://reward_fns.mixed",
        "critic_r1.rollout_agreement.min_pearson": -1,
        "+actor_rollout_ref.rollout.engine_kwargs.vllm.mm_processor_cache_gb": max(0.01, ENGINE_CACHE * shown_gib),
        "ray_kwargs.ray_init.object_store_memory": 4_000_000_000,
        "trainer.total_training_steps": STEPS,
        "trainer.save_freq": -1,
        "trainer.logger": "[console]",
    }
    arguments = [f"{name}={value}" for name, value in overrides.items()]
    metrics = run_dir / "train" / "metrics.jsonl"
    ends: list[float] = []
    seen: list[tuple[float, dict[int, tuple[str, float]]]] = []

    def watch() -> None:
        steps = len(list(read_lines(metrics))) if metrics.exists() else 0
        if len(ends) < steps:
            # A step ends when its line is written; the processor time is read a moment later.
            ends.append(metrics.stat().st_mtime)
            seen.append((time.time(), {pid: (title, cpu_of(pid)) for pid, (title, _) in meter.cpu.items()}))

    environment = {FOLDER: str(probe), "VERL_USE_EXTERNAL_MODULES": "benchmarks.image_probe"}
    follow(training(arguments), scratch / "log", look=watch, environment=environment, memory=meter)
    if len(ends) < STEPS:
        raise RuntimeError(f"training logged {len(ends)} of {STEPS} steps: see {scratch / 'log'}")
    shown, rollouts = (STEPS - 1) * prompts, (STEPS - 1) * prompts * n
    processed: dict[str, float] = defaultdict(float)
    queue = 0.0
    for kind, line in events(probe, meter.cpu, ends[0], ends[-1]):
        if line["what"] == "processor":
            processed[kind] += line["amount"] / shown
        elif line["what"] in ("sent", "received") and kind in CLIENTS:
            queue += line["amount"]
    spent: dict[str, float] = defaultdict(float)
    (begin, before), (end, after) = seen[0], seen[-1]
    for pid, (title, seconds) in after.items():
        spent[kind_of(title)] += (seconds - before.get(pid, ("", 0.0))[1]) / rollouts
    for kind, line in events(probe, meter.cpu, begin, end):
        if line["what"] == "model":
            spent[kind] -= line["cpu"] / rollouts
    records = [record["data"] for record in read_lines(metrics)]
    held = meter.held_by()
    return {
        "load_average_before": round(load, 1),
        "processor_images_per_prompt": dict(processed),
        "host_cpu_seconds_per_rollout": sum(spent.values()),
        "host_cpu_seconds_per_rollout_by_process": {k: round(v, 4) for k, v in spent.items() if v >= 5e-5},
        "queue_bytes_per_rollout": queue / rollouts,
        "step_memory_bytes": sum(held.values()),
        "step_memory_bytes_by_process": {kind: size for kind, size in held.items() if abs(size) > 1_000_000},
        "idle_memory_bytes": sum(meter.idle.values()),
        "peak_memory_bytes": sum(meter.fullest.values()),
        "step_seconds": [record["timing_s/step"] for record in records],
        "image_cache_hit_rate": [record.get("critic_r1/rollout/image_cache_hit_rate") for record in records],
        "lowest_agreement": min(record["training/rollout_actor_probs_pearson_corr"] for record in records),
    }


def middle_run(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run with the median host CPU, which says what all of them took."""
    ordered = sorted(runs, key=lambda run: run["host_cpu_seconds_per_rollout"])
    return ordered[len(ordered) // 2] | {"all_runs": [run["host_cpu_seconds_per_rollout"] for run in runs]}


COSTS = ("host_cpu_seconds_per_rollout", "queue_bytes_per_rollout", "step_memory_bytes")
BEYOND_TEXT = (*COSTS[:2], "peak_memory_bytes")
"""What a step without images takes as well is subtracted from these."""


def compare(points: list[dict[str, Any]]) -> None:
    """Add to each point how many times more ``stock`` takes: in all, and beyond the same step without images."""
    controls = {p["size"]: p for p in points if p["size"] == "none" or p["size"].endswith(AS_TEXT)}
    for point in points:
        text = controls.get(point["size"] + AS_TEXT, controls.get("none"))
        stock, shared = (point[path] for path in PATHS)
        point["ratio"] = {name: round(stock[name] / shared[name], 2) for name in COSTS}
        point.pop("ratio_beyond_text", None)
        if text and point["size"] not in controls and point["n"] == text["n"]:
            beyond = {name: [point[path][name] - text[path][name] for path in PATHS] for name in BEYOND_TEXT}
            point["ratio_beyond_text"] = {
                name: round(more / less, 2) if less > 0 else None for name, (more, less) in beyond.items()
            }


def processor_seconds() -> dict[str, float]:
    """CPU seconds that one pass of an image takes, from its file to pixels, for each million pixels; best of ten."""
    found = {}
    with TemporaryDirectory() as scratch:
        settings = PixelSettings(str(write_model(Path(scratch))))
        for size, shape in SIZES.items():
            if min(shape):
                inputs = ImageInputs({}, [{"type": "image", "bytes": photo(*shape, 0)}], settings)
                seconds = []
                for _ in range(10):
                    begun = time.process_time()
                    inputs.make_pixels()
                    seconds.append(time.process_time() - begun)
                found[size] = round(min(seconds) / (math.prod(shape) / 1e6), 4)
    return found


def plot(points: list[dict[str, Any]], out: Path) -> None:
    """Each cost against the size of the image and against n, both paths."""
    from matplotlib.figure import Figure

    shown = {
        "megapixels": [p for p in points if p["n"] == 8 and not p["size"].endswith(AS_TEXT)],
        "n": [p for p in points if p["size"] == "0.3 MP"],
    }
    rows = [along for along, chosen in shown.items() if len(chosen) > 1]
    figure = Figure(figsize=(11, 3.3 * len(rows)), layout="constrained")
    titles = ("host CPU, s a rollout", "TransferQueue, MB a rollout", "memory of a step, MB a rollout")
    for column, (name, title) in enumerate(zip(COSTS, titles, strict=True)):
        unit = 1.0 if name.startswith("host") else 1e6
        for row, along in enumerate(rows):
            axes = figure.add_subplot(len(rows), 3, 1 + column + 3 * row)
            chosen = sorted(shown[along], key=lambda p: p[along])
            for path, mark in zip(PATHS, ("o-", "s-"), strict=True):
                shares = [unit * (p["prompts"] * p["n"] if name == "step_memory_bytes" else 1) for p in chosen]
                values = [p[path][name] / share for p, share in zip(chosen, shares, strict=True)]
                axes.plot([p[along] for p in chosen], values, mark, label=path)
            axes.set_yscale("log")
            axes.set_xlabel("megapixels (0: text only), n = 8" if along == "megapixels" else "n, 640 x 480")
            axes.set_title(title, fontsize=10)
            axes.grid(alpha=0.3)
            axes.legend(frameon=False)
    figure.savefig(out)


def main(
    out: Out = RESULTS / "images.json",
    sizes: Annotated[list[str] | None, typer.Option("--size", help="Some sizes only.")] = None,
    rollouts: Annotated[list[int] | None, typer.Option("--n", help="Some numbers of rollouts only.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each path, of which the middle one counts.")] = 1,
) -> None:
    """Measure both paths and plot them next to the result file; what that holds already is not measured again."""
    result: dict[str, Any] = {"points": []}
    if out.exists():
        result = json.loads(out.read_text(encoding="utf-8"))
    result["steps"] = STEPS
    wanted = [(size, 8) for size in PROMPTS] + [("0.3 MP", n) for n in ROLLOUTS if n != 8]
    for size, n in wanted:
        if (sizes and size not in sizes) or (rollouts and n not in rollouts):
            continue
        if any(point["size"] == size and point["n"] == n for point in result["points"]):
            continue
        prompts, pixels = PROMPTS[size] * 8 // n, math.prod(SIZES.get(size, (0,)))
        point: dict[str, Any] = {"size": size, "n": n, "prompts": prompts, "megapixels": pixels / 1e6}
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            point["file_bytes"] = write_data(folder / "data", size, prompts)
            model = write_model(folder / "model")
            runs: dict[str, list[dict[str, Any]]] = {path: [] for path in PATHS}
            for i in range(repeats):
                for path in PATHS:
                    scratch_run = folder / f"{path}{i}"
                    runs[path].append(measure(model, folder / "data", scratch_run, path, n, prompts, pixels))
            point |= {path: middle_run(found) for path, found in runs.items()}
        result["points"].append(point)
        compare(result["points"])
        print(size, n, json.dumps(point["ratio"]), flush=True)
        write(out, result)
    result["processor_seconds_per_megapixel"] = processor_seconds()
    write(out, result)
    plot(result["points"], out.with_suffix(".svg"))


if __name__ == "__main__":
    typer.run(main)
