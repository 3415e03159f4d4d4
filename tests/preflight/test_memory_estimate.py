"""The arithmetic is held against the real model classes, against published totals, and against itself."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from recipe.critic_r1.preflight import memory_estimate as estimate
from recipe.critic_r1.preflight.memory_estimate import GIB
from recipe.critic_r1.preflight.model_shape import ModelShape, lora_parameters, read_config
from recipe.critic_r1.train import compose_config

QWEN, QWEN3 = "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"
COUNTED = [QWEN, "russwang/ThinkLite-VL-7B", "XiaomiMiMo/MiMo-VL-7B-SFT-2508", "XiaomiMiMo/MiMo-VL-7B-RL-2508", QWEN3]


@pytest.fixture(autouse=True)
def flash_attn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machines of the estimate have it."""
    monkeypatch.setattr(estimate, "has_flash_attn", lambda: True)


def config(name: str = "r1", *overrides: str) -> DictConfig:
    return compose_config(name, overrides)


def shape(path: str = QWEN) -> ModelShape:
    read = read_config(path)
    assert read is not None
    found = ModelShape.from_config(read)
    assert found is not None
    return found


@pytest.mark.parametrize("path", [QWEN, "XiaomiMiMo/MiMo-VL-7B-SFT-2508", QWEN3])
def test_the_formula_counts_what_transformers_builds(path: str) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText

    read = dict(read_config(path) or {})
    if "text_config" not in read:  # the flat form of published Qwen2.5-VL files
        read = {**read, "text_config": {k: v for k, v in read.items() if isinstance(v, int)}}
    built = AutoConfig.for_model(read.pop("model_type"), **read)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(built)
    assert shape(path).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("text", ["[]", "null", "{"])
def test_a_folder_without_a_usable_config_has_no_shape(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert read_config(str(tmp_path)) is None


@pytest.mark.parametrize(("path", "billions"), [(QWEN, 8.29), (QWEN3, 8.77)])
def test_the_totals_are_the_ones_on_the_model_cards(path: str, billions: float) -> None:
    assert round(shape(path).parameters / 1e9, 2) == billions


def test_every_model_of_a_configuration_has_a_shape() -> None:
    runs = ("r1", "r1_plus", "r1_mimo_sft", "r1_plus_mimo", "r1_qwen3_vl_8b")
    assert [config(run).actor_rollout_ref.model.path for run in runs] == COUNTED
    assert all(ModelShape.of(config(run)) == shape(path) for run, path in zip(runs, COUNTED, strict=True))


def test_another_family_has_none() -> None:
    assert ModelShape.of(config("r1", "actor_rollout_ref.model.path=nobody/nothing")) is None


def named(lines: list[estimate.EstimateLine]) -> dict[str, float]:
    return {line.name: line.bytes for line in lines}


def test_a_line_is_its_formula_by_hand() -> None:
    p = shape().parameters
    lines = named(estimate.training_lines(shape(), config()))
    assert lines["weights"] == lines["gradients"] == 4 * p / 8
    assert lines["optimizer"] == 8 * p / 8
    # 4 rows of 6,142 + 2,048 tokens.
    stock_prompts = config("r1", "critic_r1.prompt_path=stock")
    assert named(estimate.training_lines(shape(), stock_prompts))["logits"] == 4 * 8190 * 152_064 * 2
    # Or 8 rows of one prompt: 6,142 + 8 x 2,048 tokens are less.
    assert lines["logits"] == 8 * 2048 * 152_064 * 2
    assert lines["checkpointed inputs"] == 4 * 8190 * 3584 * 28 * 2
    # FSDP1 keeps what is in no layer in one unit: both embeddings and the merger.
    assert lines["gathered gradients"] == 4 * (2 * 152_064 * 3584 + 5120 * 5121 + 3584 * 5121)
    # 4 rollouts of one prompt, one image of 4,194,304 pixels in patches of 14.
    assert lines["vision checkpoints"] == 2 * (4_194_304 / 196) * 1280 * 32
    by_stock = config("r1", "critic_r1.image_path=stock")
    assert named(estimate.training_lines(shape(), by_stock))["vision checkpoints"] == 4 * lines["vision checkpoints"]
    pixels = 640 * 480
    stock = named(estimate.host_lines(shape(), by_stock, pixels, 50_000))
    assert stock["images"] == 256 * 8 * (estimate.STOCK_COPIES * 24 * pixels + 2 * (3 * pixels + 50_000))
    host = named(estimate.host_lines(shape(), config(), pixels, 50_000))
    assert host["images"] == 256 * (8 * 50_000 + 3 * pixels)
    assert host["images in preparation"] == 8 * 4 * 24 * pixels
    # Less than the bound: 256 prompts over 4 engines and 8 training workers.
    assert host["pixels of the training workers"] == (256 + 8 * 4) * 24 * pixels
    assert host["image cache of the rollout engines"] == 2 * 256 * 24 * pixels
    assert host["reference model"] == 4 * p


def test_measured_constants_are_those_of_the_benchmark() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "images.json"
    measured = json.loads(path.read_text(encoding="utf-8"))
    (largest,) = (point for point in measured["points"] if point["size"] == "4 MP")
    held = [largest[name]["step_memory_bytes_by_process"] for name in ("stock", "shared")]
    more = sum(held[0][part] - held[1][part] for part in ("TransferQueue", "training worker"))
    rollouts = largest["prompts"] * largest["n"]
    copies = more / (rollouts * 24e6 * largest["megapixels"]) + 1
    # The formula counts whole copies; micro-batches and messages, which it leaves out, are less than one more.
    assert estimate.STOCK_COPIES <= copies < estimate.STOCK_COPIES + 1
    assert float(f"{measured['processor_seconds_per_megapixel']['4 MP']:.1g}") == estimate.PROCESSOR_SECONDS
    for point in (point for point in measured["points"] if point["file_bytes"]):
        stock, shared = (point[name]["processor_images_per_prompt"] for name in ("stock", "shared"))
        assert stock["agent loop"] == pytest.approx(estimate.PROCESSOR_PASSES["stock"] * point["n"])
        assert shared["agent loop"] + shared["training worker"] == pytest.approx(estimate.PROCESSOR_PASSES["shared"])


def test_processor_time_by_hand() -> None:
    each = estimate.PROCESSOR_SECONDS * 2 / 4  # two million pixels, four machines
    stock, shared = (config("r1", "cluster=4x8", f"critic_r1.image_path={path}") for path in ("stock", "shared"))
    assert estimate.image_cpu_seconds(stock, 2e6)[0] == pytest.approx(256 * (3 * 8 + 1) * each)
    assert estimate.image_cpu_seconds(shared, 2e6)[0] == pytest.approx(256 * (2 + 1) * each)


def test_caches_are_bounded() -> None:
    host = named(estimate.host_lines(shape(), config(), 4_194_304))
    assert host["image cache of the rollout engines"] == 2 * 4 * 4 * GIB
    assert host["pixels of the training workers"] == 8 * (2 * GIB + 4 * 24 * 4_194_304)


# What is changed, and which parts get smaller by it.
SMALLER = [
    (["cluster=4x8"], {"weights", "gradients", "optimizer"}),
    (["tuning=fast"], {"logits", "checkpointed inputs", "one layer again"}),
    (["actor_rollout_ref.actor.strategy=fsdp2"], {"gathered gradients"}),
    (["tuning=lora"], {"gradients", "optimizer", "gathered gradients"}),
    (["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2"], {"logits", "checkpointed inputs", "one layer again"}),
    (["actor_rollout_ref.actor.fsdp_config.offload_policy=true"], {"weights", "gradients", "optimizer"}),
]


@pytest.mark.parametrize(("changed", "parts"), SMALLER)
def test_a_setting_lowers_its_part_and_no_other(changed: list[str], parts: set[str]) -> None:
    before = named(estimate.training_lines(shape(), config()))
    after = named(estimate.training_lines(shape(), config("r1", *changed)))
    assert {name for name in before if after.get(name, 0.0) < before[name]} == parts
    assert all(after.get(name, 0.0) <= before[name] for name in before)


def test_the_passes_of_a_step_by_hand() -> None:
    """GiB as an audit of verl's code found them by hand, contexts of 2.5 GiB apart."""
    update, scores = (
        estimate.total(lines(shape(), config())) for lines in (estimate.training_lines, estimate.log_probability_lines)
    )
    assert 42 <= update + estimate.CUDA_GIB <= 50
    assert scores == pytest.approx(33, abs=0.5)
    slow = config("r1", "actor_rollout_ref.actor.fsdp_config.use_torch_compile=false")
    more = estimate.total(estimate.log_probability_lines(shape(), slow)) - scores
    assert more == pytest.approx(74, abs=0.5)
    chunked = config(
        "r1",
        "actor_rollout_ref.actor.fsdp_config.use_torch_compile=false",
        "actor_rollout_ref.actor.entropy_from_logits_with_chunking=true",
    )
    assert estimate.total(estimate.log_probability_lines(shape(), chunked)) == scores
    fast = estimate.training_lines(shape(), config("r1", "tuning=fast"))
    assert named(fast)["fused head"] == pytest.approx(3e9, rel=0.1)
    assert named(estimate.log_probability_lines(shape(), config("r1", "tuning=fast")))["fused head"] < 1e9


def test_without_flash_attn_the_loss_copies_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = config("r1", "critic_r1.prompt_path=stock")
    before = estimate.total(estimate.training_lines(shape(), stock))
    monkeypatch.setattr(estimate, "has_flash_attn", lambda: False)
    assert estimate.total(estimate.training_lines(shape(), stock)) - before == pytest.approx(19, abs=0.5)


def test_offloading_moves_the_actor_to_the_host() -> None:
    moved = config("r1", "actor_rollout_ref.actor.fsdp_config.offload_policy=true")
    assert named(estimate.host_lines(shape(), moved, None))["offloaded actor"] == 16 * shape().parameters


def test_a_checkpoint_holds_what_it_is_told_to_save() -> None:
    p, adapters = shape().parameters, lora_parameters(shape(), 16)
    assert estimate.checkpoint_bytes(shape(), config()) == (4 + 8 + 2) * p
    assert estimate.checkpoint_bytes(shape(), config(), ["model"]) == 4 * p
    assert estimate.checkpoint_bytes(shape(), config("r1", "tuning=lora")) == 6 * p + 8 * adapters
    assert estimate.checkpoint_bytes(shape(), config("demo"), ["hf_model"]) == 4 * p  # it computes in float32


def test_the_tables_of_scaling_are_what_the_formulas_say() -> None:
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    memory = re.findall(r"^\| ([\d,]+) pixels.*?\| ([\d.]+) GiB \| ([\d.]+) GiB \| ([\d.]+) GiB", text, re.MULTILINE)
    cpu = re.findall(r"^\| ([\d,]+) pixels \| (\d+) s \| (\d+) s \|", text, re.MULTILINE)
    assert [row[0] for row in memory] == [row[0] for row in cpu]
    assert len(memory) == 4
    for (pixels, *numbers), (_, *seconds) in zip(memory, cpu, strict=True):
        expected, spent, size = [], [], float(pixels.replace(",", ""))
        for path in ("stock", "shared"):
            run = config("r1", f"critic_r1.image_path={path}")
            lines = named(estimate.image_lines(run, size, size / 4))
            engines = lines.pop("image cache of the rollout engines") / GIB
            expected.append(sum(lines.values()) / GIB)
            spent.append(estimate.image_cpu_seconds(run, size)[0])
        assert [float(number) for number in numbers] == [round(value, 1) for value in (*expected, engines)], pixels
        assert [int(number) for number in seconds] == [round(value) for value in spent], pixels


def test_the_table_of_shared_prompts_is_what_the_formulas_say() -> None:
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    number = r"([\d,.]+)"
    cells = [number, r"(\d+)", number, number, f"{number} x", f"{number} GiB", f"{number} GiB", f"{number} x"]
    found = re.findall(r"^\| " + r" \| ".join(cells) + r" \|$", text, re.MULTILINE)
    assert len(found) == 12
    for line in found:
        prompt, n, *numbers = (float(cell.replace(",", "")) for cell in line)
        stock, once = (estimate.group_cost(shape(), int(prompt), 250, int(n), path) for path in ("stock", "once"))
        held = [part.bytes / GIB for part in (stock, once)]
        expected = [stock.tokens, once.tokens, round(stock.tokens / once.tokens, 1)]
        assert numbers == [*expected, *(round(value, 1) for value in held), round(held[0] / held[1], 1)], line


def test_a_cache_without_room_is_negative() -> None:
    small = config("r1", "actor_rollout_ref.rollout.gpu_memory_utilization=0.05")
    assert estimate.cache_tokens(shape(), small, 80) < 0 < estimate.cache_tokens(shape(), config(), 80)


def test_published_footprints() -> None:
    """The release trains this on 8 x 80 GB; EasyR1 reports host peaks of 120 to 200 GB for its 7B example."""
    run = config()
    assert estimate.total(estimate.training_lines(shape(), run)) + estimate.CUDA_GIB < 80
    assert estimate.total(estimate.rollout_lines(shape(), run, 80)) + estimate.CUDA_GIB < 80
    stock = config("r1", "critic_r1.image_path=stock")  # what they ran
    geometry = estimate.total(estimate.host_lines(shape(), stock, 400 * 300)) * GIB / 1e9
    assert 120 <= geometry <= 200
    assert math.isclose(geometry, 191, rel_tol=0.05)


def test_the_table_of_the_documentation_is_what_the_formulas_say() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    found = re.findall(
        r"^\| `(cluster=[^`]+)` \| (\d+) GiB \| (\d+) GiB \| (\d+) GiB \| (\d+) GiB and the images",
        text,
        re.MULTILINE,
    )
    assert len(found) == 4
    for changed, *numbers in found:
        run = config("r1", *changed.split())
        gpu = [estimate.training_lines(shape(), run), estimate.log_probability_lines(shape(), run)]
        gpu.append(estimate.rollout_lines(shape(), run, 80))
        expected = [estimate.total(lines) + estimate.CUDA_GIB for lines in gpu]
        expected.append(estimate.total(estimate.host_lines(shape(), run, None)))
        assert [int(number) for number in numbers] == [round(number) for number in expected], changed
    whole, model = (estimate.checkpoint_bytes(shape(), config(), part) / GIB for part in (None, ["hf_model"]))
    told = " ".join(text.split())
    assert f"A checkpoint takes {whole:.0f} GiB" in told
    assert f"the best model beside them takes {model:.0f} GiB" in told
