"""verl's agent-loop worker and ours, side by side: what they store for the trainer is the same.

Both workers are real, with the demo's model, its processor and verl's configuration; the rollout engine is a function
that returns fixed tokens, TransferQueue a list, and Ray's object store nothing at all. What is stored then goes through
verl's training engine, in a process of its own (`image_losses`).
"""

import asyncio
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from benchmarks import seeded
from data_prep.tasks.pairwise import Image, PolicyTask
from data_prep.writer import write_parquet
from recipe.critic_r1.images.dataset import EncodedImageDataset
from recipe.critic_r1.images.encoded import ImageInputs
from recipe.critic_r1.rollout import agent_loop
from recipe.critic_r1.rollout.client import one_by_one
from recipe.critic_r1.train import compose_config
from tests.images.test_encoded import photo

ROOT = Path(__file__).parents[2]
RESPONSES = ([5, 6, 7, 8, 9, 10], [11], [12, 13, 14])
ROWS = {"one image": 0, "three images": 1, "two images": 2, "text only": 3}
LARGE_FILE = 4
"""A row whose image is a larger file than the pixels that the processor makes of it."""
SPLITS = ["single", "fixed", "dynamic"]
WORKERS = {"stock": agent_loop._StockWorker, "shared": agent_loop.SharedPromptWorker, "placed": seeded.PlacedWorker}
TRAJECTORY = {"step": 1, "sample_index": 0, "rollout_n": 0, "validate": False}


@pytest.fixture(scope="module")
def config(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    folder = tmp_path_factory.mktemp("shared")
    images = [Image(photo(*shape, seed), f"{seed}.jpg") for seed, shape in enumerate([(60, 60), (200, 90), (70, 300)])]
    noise = Image(photo(400, 400, 9, "PNG", noise=200), "noise.png")
    tasks = [
        PolicyTask("photos", tuple(chosen), "What is shown?", "3", "train", i)
        for i, chosen in enumerate([images[:1], images, images[1:], [], [noise]])
    ]
    write_parquet(tasks, folder / "data")
    overrides = {
        "actor_rollout_ref.model.path": tiny_model,
        "data.train_files": folder / "data" / "train-00000.parquet",
        "data.val_files": folder / "data" / "train-00000.parquet",
        "actor_rollout_ref.rollout.n": len(RESPONSES),
        "critic_r1.run_dir": folder,
    }
    return compose_config("demo", [f"{name}={value}" for name, value in overrides.items()])


Stored = tuple[str, dict[str, Any], dict[str, Any]]
"""Key, fields and tag of a rollout."""


class Engine:
    """Answers each request with the next of the fixed responses, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self._next = itertools.cycle(RESPONSES)

    async def generate(self, **request: Any) -> Any:
        self.asked.append(request)
        tokens = next(self._next)
        return SimpleNamespace(
            token_ids=list(tokens),
            log_probs=[-0.5] * len(tokens),
            routed_experts=None,
            num_preempted=0,
            num_cached_tokens=None,
            stop_reason="completed",
            extra_fields={"global_steps": 1, "min_global_steps": 1, "max_global_steps": 1},
        )


def catch_what_is_stored(patch: pytest.MonkeyPatch) -> list[Stored]:
    """Each rollout that is put into the queue, as it arrives on the other side."""
    found: list[Stored] = []

    async def put(**asked: Any) -> None:
        pass

    async def batch_put(keys: list[str], fields: Any, tags: list[dict[str, Any]], partition_id: str) -> None:
        arrived = pickle.loads(pickle.dumps(fields))
        for i, (key, tag) in enumerate(zip(keys, tags, strict=True)):
            row = {name: value[i] for name, value in arrived.items()}
            found.append((key, {name: getattr(value, "data", value) if not torch.is_tensor(value) else value
                                for name, value in row.items()}, tag))  # fmt: skip

    patch.setattr(tq, "init", lambda *settings: None)
    patch.setattr(tq, "async_kv_put", put)
    patch.setattr(tq, "async_kv_batch_put", batch_put)
    patch.setattr(ray, "put", lambda value: value)
    return found


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[Stored]:
    return catch_what_is_stored(monkeypatch)


def rolled_out(
    config: DictConfig,
    path: str,
    row: int,
    stored: list[Stored],
    client: Any = None,
    sampling: dict[str, Any] | None = None,
) -> tuple[list[Stored], Engine]:
    """The rollouts of one prompt on a path, the shortest response first; ``client`` makes a client of an engine."""
    from verl.utils import hf_processor, hf_tokenizer

    config, engine = DictConfig(OmegaConf.to_container(config, resolve=True)), Engine()
    model = config.actor_rollout_ref.model.path
    if path == "stock":
        config.data.custom_cls.path = None
    dataset_cls = RLHFDataset if path == "stock" else EncodedImageDataset
    data = dataset_cls(config.data.train_files, hf_tokenizer(model), config.data, hf_processor(model))
    # As Ray hands it over. It also decodes images that verl's data set only opens: its rollouts would decode them in
    # several threads at once, which Pillow cannot do.
    row_as_sent = pickle.loads(pickle.dumps(data[row]))
    prompt = row_as_sent | {"uid": "u", "agent_name": "single_turn_agent", "global_steps": 1}
    stored.clear()

    async def run() -> None:
        worker = WORKERS[path](config, client(config, engine) if client else engine)
        await worker._run_prompt(prompt, {"temperature": 1.0, "logprobs": True} | (sampling or {}), TRAJECTORY)

    asyncio.run(run())
    return sorted(stored, key=lambda item: len(item[1]["responses"])), engine


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_both_paths_store_the_same(config: DictConfig, row: int, stored: list[Stored]) -> None:
    stock, _ = rolled_out(config, "stock", row, stored)
    ours, engine = rolled_out(config, "shared", row, stored)
    assert len(stock) == len(ours) == len(RESPONSES)
    for (_, theirs, their_tag), (_, mine, tag) in zip(stock, ours, strict=True):
        assert tag == their_tag
        assert mine.keys() == theirs.keys()
        for name in ("prompts", "responses", "input_ids", "position_ids", "response_mask", "loss_mask"):
            assert torch.equal(mine[name], theirs[name]), name
            assert mine[name].dtype == theirs[name].dtype, name
        assert torch.equal(mine["rollout_log_probs"], theirs["rollout_log_probs"])
        images, tensors = mine["multi_modal_inputs"], theirs["multi_modal_inputs"]
        assert isinstance(images, ImageInputs) == (row != ROWS["text only"])
        assert set(images.keys()) == set(tensors)
        assert all(torch.equal(images[name], tensors[name]) for name in tensors)
        assert mine["reward_model"] == theirs["reward_model"]
        assert mine["extra_info"] == theirs["extra_info"]
    # All rollouts of the prompt show the engine one and the same list of images.
    assert len({id(request["image_data"]) for request in engine.asked}) == 1


@pytest.mark.parametrize(
    ("asked", "engine_decodes"), [({}, False), ({"stop": ["."]}, True), ({"detokenize": True}, True)]
)
def test_the_engine_makes_text_of_tokens_only_where_it_has_to(
    config: DictConfig, stored: list[Stored], asked: dict[str, Any], engine_decodes: bool
) -> None:
    """Stop strings are looked for in the text; everything else is told by tokens."""
    _, engine = rolled_out(config, "shared", ROWS["text only"], stored, sampling=asked)
    assert [request["sampling_params"]["detokenize"] for request in engine.asked] == [engine_decodes] * len(RESPONSES)


def test_a_file_that_is_larger_than_its_pixels_travels_as_pixels(config: DictConfig, stored: list[Stored]) -> None:
    from verl.utils import hf_processor

    ours, engine = rolled_out(config, "shared", LARGE_FILE, stored)
    (image,) = engine.asked[0]["image_data"]
    processor = hf_processor(config.actor_rollout_ref.model.path)
    expected = processor(text=[processor.image_token], images=[image], return_tensors="pt")
    for _, record, _ in ours:
        found = record["multi_modal_inputs"]
        assert isinstance(found, dict)
        assert torch.equal(found["pixel_values"], expected["pixel_values"])
        assert torch.equal(found["image_grid_thw"], expected["image_grid_thw"])


class Interrupted(FullyAsyncLLMServerClient):  # type: ignore[misc]
    """verl's client of the asynchronous trainer; the engine stops each request after two tokens for new weights."""

    def __init__(self, config: Any, engine: Engine) -> None:
        self.config, self.engine, self.left = config, engine, dict[Any, list[int]]()

    async def pieces(self, **request: Any) -> TokenOutput:
        rollout = asyncio.current_task()
        if rollout not in self.left:
            self.left[rollout] = (await self.engine.generate(**request)).token_ids
            tokens, self.left[rollout], step = self.left[rollout][:2], self.left[rollout][2:], 1
        else:
            self.engine.asked.append(request)
            tokens, self.left[rollout], step = self.left[rollout], [], 2
        return TokenOutput(
            token_ids=tokens,
            log_probs=[-0.5 * step] * len(tokens),
            stop_reason="aborted" if self.left[rollout] else "completed",
            extra_fields={"global_steps": step},
        )


def test_the_asynchronous_trainers_interrupted_rollouts_are_the_same(
    config: DictConfig, stored: list[Stored], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def generate(self: Interrupted, request_id: str, **request: Any) -> TokenOutput:
        requests.append(request_id)
        return await self.pieces(**request)

    requests: list[str] = []
    monkeypatch.setattr(LLMServerClient, "generate", generate)
    row = ROWS["three images"]
    stock, _ = rolled_out(config, "stock", row, stored, Interrupted)
    requests.clear()
    ours, engine = rolled_out(config, "shared", row, stored, Interrupted)
    assert [tag["max_global_steps"] for _, _, tag in ours] == [1, 2, 2]  # the two longer ones span two policies
    for (_, theirs, their_tag), (_, mine, tag) in zip(stock, ours, strict=True):
        assert tag == their_tag
        for name in ("input_ids", "position_ids", "response_mask", "rollout_log_probs"):
            assert torch.equal(mine[name], theirs[name]), name
        assert isinstance(mine["multi_modal_inputs"], ImageInputs)
    # Whoever goes on with a rollout is shown the same images again.
    assert len(engine.asked) == len(RESPONSES) + 2
    assert len({id(request["image_data"]) for request in engine.asked}) == 1
    # One id, by which verl's load balancer gives all of them the same server.
    assert len(set(requests)) == 1


def test_a_measured_rollout_has_a_seed_that_follows_from_its_place(config: DictConfig, stored: list[Stored]) -> None:
    """`benchmarks.cluster` compares two runs response by response."""

    def grouping(config: DictConfig, engine: Engine) -> Any:
        async def generate_group(request_id: str, *, sampling_params: list[dict[str, Any]], **request: Any) -> Any:
            return await one_by_one(engine, request_id, sampling_params, **request)

        return SimpleNamespace(generate_group=generate_group)

    def seeds(row: int) -> list[int]:
        ours, engine = rolled_out(config, "placed", row, stored, grouping)
        assert len(ours) == len(RESPONSES)
        return [request["sampling_params"]["seed"] for request in engine.asked]

    assert seeds(ROWS["one image"]) == seeds(ROWS["one image"])
    assert len({*seeds(ROWS["one image"]), *seeds(ROWS["text only"])}) == 2 * len(RESPONSES)


def test_what_is_stored_holds_the_images_once_and_encoded(config: DictConfig, stored: list[Stored]) -> None:
    ours, _ = rolled_out(config, "shared", 1, stored)
    for _, record, _ in ours:
        images = record["multi_modal_inputs"]
        files = sum(len(item["bytes"]) for item in images.images)
        # A row of a packed tensor would be pickled with the whole.
        alone = {name: value.clone() if torch.is_tensor(value) else value for name, value in record.items()}
        sizes = {name: len(pickle.dumps(value)) for name, value in alone.items()}
        assert sum(sizes.values()) < files + 10_000, sorted(sizes.items(), key=lambda size: -size[1])[:3]
        assert "bytes" not in str(record["raw_prompt"])


def test_balance_between_workers_counts_image_tokens(config: DictConfig, stored: list[Stored]) -> None:
    """verl balances by the tag's length; an image's tokens are in it, one for each 28x28 pixels."""
    ours, _ = rolled_out(config, "shared", ROWS["three images"], stored)
    for _, record, tag in ours:
        assert tag["seq_len"] == len(record["input_ids"]) == tag["prompt_len"] + len(record["responses"])
        tokens = int(record["multi_modal_inputs"]["image_grid_thw"].prod(-1).sum()) // 4
        assert tokens > 20
        assert tag["prompt_len"] > tokens


@pytest.fixture(scope="module")
def both_paths(config: DictConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """What verl's engine computes in a process of its own from the same mixed batch of either path."""
    folder = tmp_path_factory.mktemp("losses")
    with pytest.MonkeyPatch.context() as patch:
        found = catch_what_is_stored(patch)
        records = {
            path: [record for row in ROWS.values() for _, record, _ in rolled_out(config, path, row, found)[0]]
            for path in ("stock", "shared")
        }
        records["once"] = records["shared"]
    (folder / "batches").write_bytes(pickle.dumps({"config": config, "records": records}))
    command = [sys.executable, "-m", "tests.images.image_losses", str(folder / "batches"), str(folder / "result")]
    environment = {**os.environ, "VERL_PLATFORM": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[tuple[str, str], Any] = pickle.loads((folder / "result").read_bytes())
    return result


def close(ours: torch.Tensor, stock: torch.Tensor) -> bool:
    """Within 1e-6 of the largest value: the order of additions differs."""
    return float((ours - stock).abs().max()) <= 1e-6 * max(1.0, float(stock.abs().max()))


@pytest.mark.parametrize("path", ["shared", "once"])
@pytest.mark.parametrize("split", SPLITS)
def test_log_probabilities_losses_and_gradients_are_the_same(
    both_paths: dict[tuple[str, str], Any], split: str, path: str
) -> None:
    """Twelve rollouts, images of all shapes and none, in micro-batches of one rollout and in some that mix them.

    To the bit where each rollout is computed by itself and a micro-batch shows no image twice.
    """
    same = torch.equal if split == "single" and path == "shared" else close
    stock, ours = both_paths["stock", split], both_paths[path, split]
    names = ["log_probs", "entropy", "loss"]
    if path == "once":  # other micro-batches, and nothing for tokens of a prompt
        names = ["predicted log_probs", "predicted entropy", "total loss"]
    for name in names:
        assert same(ours[name], stock[name]), name
    assert ours["gradients"].keys() == stock["gradients"].keys()
    assert any("visual" in name for name in ours["gradients"])
    for name, gradient in stock["gradients"].items():
        assert same(ours["gradients"][name], gradient), name
    assert float(ours["loss"].abs().max()) > 0
    assert all(float(gradient.abs().max()) > 0 for name, gradient in stock["gradients"].items() if "visual" in name)


@pytest.mark.parametrize("split", SPLITS)
def test_images_are_announced_in_the_order_in_which_they_are_asked_for(
    both_paths: dict[tuple[str, str], Any], split: str
) -> None:
    once = both_paths["once", split]
    assert [key for keys in once["announced"] for key in keys] == once["asked"]
    assert once["made"] == 3
    ours = both_paths["shared", split]
    first, second = ours["announced"]
    assert first + second == ours["asked"]
    # Three prompts with images, three rollouts each, one pass without and one with gradients; made once, and asked
    # for once a micro-batch.
    asked = {"single": 3 * 3, "fixed": 5}.get(split, len(first))
    assert (len(ours["asked"]), ours["made"]) == (2 * asked, 3)
    assert len(first) < 3 * 3 or split == "single"
    assert both_paths["stock", split]["made"] == 0
