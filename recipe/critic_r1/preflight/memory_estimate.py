"""How much GPU and host memory, and how much disk, a run will take, by arithmetic.

An estimate, not a measurement: it adds up what verl 0.9.1, FSDP, Adam and vLLM hold, each line with its formula, so
that a user can see which one to change. The worst case is counted (every sequence of a micro-batch at its longest);
real batches are shorter. P is the number of parameters, N the number of GPUs, T the tokens of a micro-batch.

docs/cluster.md compares it with published figures: the release trains a 7B model on 8 x 80 GB, and others report host
peaks. It has not been compared with a GPU run of our own.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.critic_r1.preflight.software import has_flash_attn
from recipe.critic_r1.rehearsal.architectures import published
from recipe.critic_r1.rollout import PREPARED_AT_ONCE

GIB = 1024**3

FP32, BF16 = 4, 2
"""Bytes of a number."""

ADAM_STATES = 2
"""Running mean and mean square of each gradient, in fp32."""

ACTIVATIONS_PER_LAYER = 8
"""Hidden-sized tensors alive in the one layer that is computed anew (norms, query, key, value, attention, residuals);
four of intermediate size come on top (gate, up, their product, its gradient). Inferred from the layer's code."""

BYTES_PER_PIXEL = 24
"""An image as the model's input: three channels of fp32, twice over for the temporal patch of two frames."""

BYTES_PER_DECODED_PIXEL = 3

ENCODED_BYTES_PER_PIXEL = 0.25
"""Of a photograph as JPEG, where the files were not looked at."""

STOCK_COPIES = 3
"""Times that verl's own path holds a rollout's pixels: in the agent-loop worker that made them, in TransferQueue and in
the training worker. The last two were measured together (benchmarks/results/images.json): with what micro-batches
and messages add, 2.9."""

PROCESSOR_SECONDS = 0.05
"""CPU seconds of one pass of an image through the image processor, for each million pixels; measured there too."""

PROCESSOR_PASSES = {"stock": 3, "shared": 2}
"""Passes in a step: of each rollout on verl's path (prompt tokens, reward, training inputs), of each prompt on ours
(prompt tokens, of which for the Qwen-VL family only the decoding is left; pixels in the training worker). The rollout
engine's own, one a prompt, comes on top of both."""

ENGINE_IMAGE_CACHE = 4 * GIB
"""vLLM's ``mm_processor_cache_gb``; its API process and its engine core hold one each."""

PROCESS_GIB = 12.0
"""Host memory of a GPU's training process and rollout worker before any model is in it: CUDA, libraries, pinned
buffers. verl issue 224 reports 11 GB a process for a 7B text model."""

CUDA_GIB = 2.5
"""GPU memory beside torch's own: two CUDA contexts, NCCL and cuBLAS buffers. Inferred."""

FUSED_CHUNK = 512
"""Tokens that verl's fused head computes at a time, in fp32."""

LOSS_COPIES = 2
"""Copies of the logits that verl's loss makes where flash-attn's cross-entropy, which works in place, is missing."""


@dataclass(frozen=True)
class ModelShape:
    """What the estimate has to know of a Qwen2.5-VL or Qwen3-VL."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    vision: dict[str, Any]
    family: str

    @classmethod
    def of(cls, config: DictConfig) -> "ModelShape | None":
        """The shape of a run's model; None when it is not known or of another family."""
        path = config.actor_rollout_ref.model.path
        read = None if path is None else read_config(str(path))
        return None if read is None else cls.from_config(read)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ModelShape | None":
        """From the content of a config.json; None for another family or a file without sizes."""
        text, family = config.get("text_config") or config, str(config.get("model_type", ""))
        if family not in ("qwen2_5_vl", "qwen3_vl") or "hidden_size" not in text or "vision_config" not in config:
            return None
        return cls(
            hidden=text["hidden_size"],
            intermediate=text["intermediate_size"],
            layers=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            head_dim=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
            vocabulary=text["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
            vision=dict(config["vision_config"]),
            family=family,
        )

    @property
    def embedding_parameters(self) -> int:
        """Input embedding, and the output layer when it is another matrix."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def layer_parameters(self) -> int:
        """One decoder layer."""
        query, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * self.hidden * query + 2 * self.hidden * key_value
        # Qwen2.5 has biases on query, key and value; Qwen3 normalises each head of query and key instead.
        attention += query + 2 * key_value if self.family == "qwen2_5_vl" else 2 * self.head_dim
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def merger_parameters(self) -> int:
        """The two linear layers between vision tower and decoder; they are in FSDP1's root unit."""
        merged = self.vision["hidden_size"] * self.vision.get("spatial_merge_size", 2) ** 2
        out = self.vision["out_hidden_size"]
        return int(merged * merged + merged + merged * out + out)

    @property
    def vision_parameters(self) -> int:
        """Patch embedding, blocks and mergers of the vision tower."""
        v = self.vision
        wide, inner = v["hidden_size"], v["intermediate_size"]
        patch = v.get("in_channels", 3) * v.get("temporal_patch_size", 2) * v.get("patch_size", 14) ** 2
        merged = wide * v.get("spatial_merge_size", 2) ** 2
        attention = 4 * wide * wide + 4 * wide
        if self.family == "qwen2_5_vl":
            block = attention + 3 * wide * inner + 2 * inner + wide + 2 * wide
            return int(patch * wide + v["depth"] * block + wide + self.merger_parameters)
        block = attention + 2 * wide * inner + inner + wide + 4 * wide
        linear = self.merger_parameters
        deep = len(v.get("deepstack_visual_indexes", ())) * (2 * merged + linear)
        positions = v.get("num_position_embeddings", 0) * wide
        return int(patch * wide + wide + positions + v["depth"] * block + 2 * wide + linear + deep)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.embedding_parameters + self.layers * self.layer_parameters + self.hidden + self.vision_parameters

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that the rollout engine's cache holds for a token, on all its GPUs together."""
        return 2 * self.layers * self.kv_heads * self.head_dim * BF16


def read_config(path: str) -> dict[str, Any] | None:
    """The config.json of a model folder, of a model in the Hub's cache, or of a model whose sizes ship."""
    folder = Path(os.path.expanduser(path))
    file: Any = folder / "config.json"
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        try:
            file = try_to_load_from_cache(path, "config.json")
        except ValueError:  # not an id of the Hub
            file = None
        if not isinstance(file, str):
            return published(path)
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def workers(config: DictConfig) -> int:
    """GPUs (or CPU workers) that train."""
    return int(config.trainer.nnodes * config.trainer.n_gpus_per_node)


@dataclass(frozen=True)
class EstimateLine:
    """One part of an estimate."""

    name: str
    formula: str
    bytes: float


def lora_parameters(shape: ModelShape, rank: int) -> int:
    """Parameters of adapters of this rank on all linear layers of the decoder."""
    query, key_value = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sides = 2 * (shape.hidden + query) + 2 * (shape.hidden + key_value) + 3 * (shape.hidden + shape.intermediate)
    return shape.layers * rank * sides


def _trained(shape: ModelShape, config: DictConfig) -> int:
    rank = config.actor_rollout_ref.model.lora_rank
    return lora_parameters(shape, rank) if rank > 0 else shape.parameters


def micro_batch_tokens(config: DictConfig) -> int:
    """Tokens of an actor's micro-batch on one GPU, every sequence at its longest."""
    actor = config.actor_rollout_ref.actor
    if actor.use_dynamic_bsz:
        return int(actor.ppo_max_token_len_per_gpu)
    longest = config.data.max_prompt_length + config.data.max_response_length
    return int(actor.ppo_micro_batch_size_per_gpu * longest / actor.ulysses_sequence_parallel_size)


def predicting_tokens(config: DictConfig) -> int:
    """Tokens of an actor's micro-batch whose logits are computed: with prompts computed once, those of responses."""
    part, tokens = config.actor_rollout_ref, micro_batch_tokens(config)
    if config.critic_r1.prompt_path != "once" or part.actor.ulysses_sequence_parallel_size > 1:
        return tokens
    prompt, response = config.data.max_prompt_length, config.data.max_response_length
    # Rows of one prompt that fit, or as many whole rows as fit: whichever has more responses.
    rows = max(tokens // (prompt + response), min(part.rollout.n, (tokens - prompt) // response))
    return int(rows * response)


@dataclass(frozen=True)
class GroupCost:
    """What the update of one prompt's rollouts takes on a GPU, in one micro-batch with gradient checkpointing."""

    tokens: int
    """That go through the language model."""
    logits: int
    """Tokens whose logits are computed."""
    bytes: float
    """Checkpointed inputs, one layer again, and logits with their gradient."""


def group_cost(shape: ModelShape, prompt: int, response: int, n: int, path: str) -> GroupCost:
    """The cost of n responses to a prompt.

    Args:
        prompt: tokens.
        response: tokens of each response.
        path: ``critic_r1.prompt_path``.
    """
    tokens = prompt + n * response if path == "once" else n * (prompt + response)
    logits = n * response if path == "once" else tokens
    layers = shape.hidden * shape.layers + ACTIVATIONS_PER_LAYER * shape.hidden + 4 * shape.intermediate
    return GroupCost(tokens, logits, BF16 * (tokens * layers + 2 * logits * shape.vocabulary))


def training_lines(shape: ModelShape, config: DictConfig) -> list[EstimateLine]:
    """What one GPU holds while the actor is updated."""
    part = config.actor_rollout_ref
    n, p, trained, tokens = workers(config), shape.parameters, _trained(shape, config), micro_batch_tokens(config)
    on_host = bool(part.actor.fsdp_config.offload_policy)
    lines = []
    if not on_host:
        lines += [
            EstimateLine("weights", "4 P / N", FP32 * p / n),
            EstimateLine("gradients", "4 P' / N, P' the trained ones", FP32 * trained / n),
            EstimateLine("optimizer", "8 P' / N (Adam, fp32)", ADAM_STATES * FP32 * trained / n),
        ]
    lines.append(_gathered_weights(shape))
    if trained < p:
        lines.append(EstimateLine("gathered gradients", "adapters only", FP32 * trained / shape.layers))
    elif part.actor.strategy == "fsdp":
        root = shape.embedding_parameters + shape.merger_parameters
        lines.append(
            EstimateLine("gathered gradients", "4 x FSDP1's root unit (embeddings and merger), fp32", FP32 * root)
        )
    else:
        largest = max(shape.layer_parameters, shape.vocabulary * shape.hidden)
        lines.append(EstimateLine("gathered gradients", "4 x the largest unit, fp32", FP32 * largest))
    layer = tokens * (ACTIVATIONS_PER_LAYER * shape.hidden + 4 * shape.intermediate) * BF16
    if part.model.enable_gradient_checkpointing:
        lines.append(
            EstimateLine("checkpointed inputs", "2 T x hidden x layers", BF16 * tokens * shape.hidden * shape.layers)
        )
        lines.append(EstimateLine("one layer again", "2 T (8 hidden + 4 intermediate)", layer))
    else:
        lines.append(EstimateLine("activations", "2 T (8 hidden + 4 intermediate) x layers", layer * shape.layers))
    lines += _vision_lines(shape, config, tokens)
    if part.model.use_fused_kernels:
        head = FP32 * shape.vocabulary * (shape.hidden * (trained == p) + 2 * FUSED_CHUNK)
        lines.append(
            EstimateLine("fused head", "4 vocabulary x hidden (its gradient) + 2 chunks of logits, fp32", head)
        )
        return lines
    predicting = predicting_tokens(config)
    counted = "response tokens (prompts computed once)" if predicting < tokens else "T"
    logits = BF16 * predicting * shape.vocabulary
    lines.append(EstimateLine("logits", f"2 {counted} x vocabulary, their gradient in place", logits))
    if not has_flash_attn():
        lines.append(
            EstimateLine("copies of the logits", "2 more, without flash-attn's cross-entropy", LOSS_COPIES * logits)
        )
    return lines


def log_probability_lines(shape: ModelShape, config: DictConfig) -> list[EstimateLine]:
    """What one GPU holds while the old log-probabilities and their entropy are computed."""
    part = config.actor_rollout_ref
    tokens = _log_probability_tokens(config)
    lines = [_kept(shape, config), _gathered_weights(shape)]
    if part.model.use_fused_kernels:
        lines.append(EstimateLine("fused head", "2 chunks of logits, fp32", FP32 * 2 * FUSED_CHUNK * shape.vocabulary))
        return lines
    lines.append(
        EstimateLine("logits", "2 T' x vocabulary, T' the tokens of this pass", BF16 * tokens * shape.vocabulary)
    )
    settings = part.actor.fsdp_config
    if not settings.use_torch_compile and not part.actor.entropy_from_logits_with_chunking:
        copies = 2 * FP32 * tokens * shape.vocabulary
        lines.append(EstimateLine("entropy", "2 fp32 copies of the logits, neither compiled nor in chunks", copies))
    return lines


def _gathered_weights(shape: ModelShape) -> EstimateLine:
    gathered = BF16 * (shape.embedding_parameters + 2 * shape.layer_parameters)
    return EstimateLine("gathered weights", "2 (embeddings + 2 layers), bf16", gathered)


def _log_probability_tokens(config: DictConfig) -> int:
    rollout = config.actor_rollout_ref.rollout
    if rollout.log_prob_use_dynamic_bsz:
        return int(rollout.log_prob_max_token_len_per_gpu)
    longest = config.data.max_prompt_length + config.data.max_response_length
    sequence = config.actor_rollout_ref.actor.ulysses_sequence_parallel_size
    return int(rollout.log_prob_micro_batch_size_per_gpu * longest / sequence)


def _vision_lines(shape: ModelShape, config: DictConfig, tokens: int) -> list[EstimateLine]:
    """The vision tower's checkpointed inputs for the largest images that a micro-batch can hold."""
    largest = (config.data.mm_processor_kwargs or {}).get("max_pixels")
    if not largest:
        return []
    rows = max(1, tokens // (config.data.max_prompt_length + config.data.max_response_length))
    # Our engine sees an image once in a micro-batch, and rollouts of one prompt are kept together.
    images = rows if config.critic_r1.image_path == "stock" else -(-rows // config.actor_rollout_ref.rollout.n)
    vision = shape.vision
    patches = images * largest / vision.get("patch_size", 14) ** 2
    held = BF16 * patches * vision["hidden_size"] * vision["depth"]
    return [EstimateLine("vision checkpoints", "2 patches x vision hidden x depth, images at the pixel limit", held)]


def rollout_lines(shape: ModelShape, config: DictConfig, gpu_gib: float) -> list[EstimateLine]:
    """What one GPU holds while the rollout engine generates; the cache takes what the engine's share leaves."""
    part = config.actor_rollout_ref
    tensor = part.rollout.tensor_model_parallel_size
    share = part.rollout.gpu_memory_utilization * gpu_gib * GIB
    weights = BF16 * shape.parameters / tensor
    return [
        _kept(shape, config),
        EstimateLine("rollout weights", "2 P / tensor parallel", weights),
        EstimateLine("KV cache and work space", "gpu_memory_utilization x GPU - rollout weights", share - weights),
    ]


def _kept(shape: ModelShape, config: DictConfig) -> EstimateLine:
    fsdp, n, kept = config.actor_rollout_ref.actor.fsdp_config, workers(config), 0.0
    if not fsdp.offload_policy:
        kept += 0.0 if fsdp.param_offload else FP32 * shape.parameters / n
        kept += 0.0 if fsdp.optimizer_offload else ADAM_STATES * FP32 * _trained(shape, config) / n
    return EstimateLine("actor kept on the GPU", "4 P / N + 8 P' / N, less what is offloaded", kept)


def cache_tokens(shape: ModelShape, config: DictConfig, gpu_gib: float) -> float:
    """Tokens that fit into the cache of one rollout engine; below zero when the weights alone do not fit."""
    tensor = int(config.actor_rollout_ref.rollout.tensor_model_parallel_size)
    room = rollout_lines(shape, config, gpu_gib)[-1].bytes
    return tensor * room / shape.kv_bytes_per_token


def image_lines(config: DictConfig, pixels: float, file_bytes: float) -> list[EstimateLine]:
    """What images take in host memory during a step; docs/scaling.md has the reasons and measurements.

    Args:
        pixels: mean number of pixels of a prompt's images, as the processor sizes them.
        file_bytes: mean size of their files.
    """
    rollout, prompts = config.actor_rollout_ref.rollout, config.data.train_batch_size
    gpus, nodes = config.trainer.n_gpus_per_node, config.trainer.nnodes
    engines = max(1, gpus // rollout.tensor_model_parallel_size)
    seen = prompts / (engines * nodes) * pixels * BYTES_PER_PIXEL
    cache = EstimateLine(
        "image cache of the rollout engines",
        "2 x engines of a machine x at most 4 GiB",
        2 * engines * min(ENGINE_IMAGE_CACHE, seen),
    )
    decoded = BYTES_PER_DECODED_PIXEL * pixels
    if config.critic_r1.image_path == "stock":
        stored = prompts * rollout.n * (STOCK_COPIES * BYTES_PER_PIXEL * pixels + 2 * (decoded + file_bytes))
        return [
            EstimateLine("images", f"batch x n x ({STOCK_COPIES} x 24 pixels + 2 (3 pixels + file))", stored),
            cache,
        ]
    ours, micro = config.critic_r1.pixels, config.actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu or 1
    preparing = rollout.agent.num_workers * PREPARED_AT_ONCE
    return [
        EstimateLine("images", "batch x n x file + batch x 3 pixels", prompts * (rollout.n * file_bytes + decoded)),
        EstimateLine(
            "images in preparation", "agent-loop workers x 4 x 24 pixels", preparing * BYTES_PER_PIXEL * pixels
        ),
        EstimateLine(
            "pixels of the training workers",
            "GPUs of a machine x (cache + micro-batch x 24 pixels)",
            gpus * (min(ours.cache_gib * GIB, seen * engines / gpus) + micro * BYTES_PER_PIXEL * pixels),
        ),
        cache,
    ]


def image_cpu_seconds(config: DictConfig, pixels: float) -> tuple[float, str]:
    """CPU seconds that the image processor takes on each machine in a step, and the formula.

    Args:
        pixels: mean number of pixels of a prompt's images, as the processor sizes them.
    """
    path, prompts = config.critic_r1.image_path, config.data.train_batch_size
    times, shown = (config.actor_rollout_ref.rollout.n, "batch x n") if path == "stock" else (1, "batch")
    passes = PROCESSOR_PASSES[path] * times + 1
    seconds = prompts * passes * PROCESSOR_SECONDS * pixels / 1e6 / config.trainer.nnodes
    formula = f"({PROCESSOR_PASSES[path]} x {shown} + batch) x million pixels x {PROCESSOR_SECONDS:g} s / machines"
    return seconds, formula


def host_lines(
    shape: ModelShape, config: DictConfig, mean_pixels: float | None, file_bytes: float | None = None
) -> list[EstimateLine]:
    """What the most loaded machine holds in host memory: the one that also runs the trainer.

    Args:
        mean_pixels: mean number of pixels of a prompt's images; None: no images.
        file_bytes: mean size of their files; None: that of photographs.
    """
    part, p, trained = config.actor_rollout_ref, shape.parameters, _trained(shape, config)
    gpus, nodes, fsdp = config.trainer.n_gpus_per_node, config.trainer.nnodes, part.actor.fsdp_config
    lines = [EstimateLine("processes", f"{PROCESS_GIB:g} GiB x GPUs of a machine", PROCESS_GIB * GIB * gpus)]
    if part.actor.use_kl_loss or config.algorithm.use_kl_in_reward:
        # verl forces CPU offload on a model that only reads; with adapters the base without them is the reference.
        reference = 0.0 if part.model.lora_rank > 0 else FP32 * p / nodes
        lines.append(EstimateLine("reference model", "4 P / machines (verl keeps it in host memory)", reference))
    offloaded = 0.0
    if fsdp.offload_policy or fsdp.param_offload:
        offloaded += FP32 * p / nodes
    if fsdp.offload_policy or fsdp.optimizer_offload:
        offloaded += ADAM_STATES * FP32 * trained / nodes
    if fsdp.offload_policy:
        offloaded += FP32 * trained / nodes
    lines.append(EstimateLine("offloaded actor", "(4 P + 4 P' + 8 P') / machines, as configured", offloaded))
    if part.model.lora_rank > 0:
        engines = max(1, gpus // part.rollout.tensor_model_parallel_size)
        lines.append(
            EstimateLine("sleeping rollout weights", "2 P x engines of a machine (adapters)", BF16 * p * engines)
        )
    lines.append(EstimateLine("loading and saving", "4 P on one machine (whole weights)", FP32 * p))
    prompts, n = config.data.train_batch_size, part.rollout.n
    if mean_pixels:
        lines += image_lines(config, mean_pixels, file_bytes or ENCODED_BYTES_PER_PIXEL * mean_pixels)
    # Object store of Ray for batches on their way; its own default is 30 % of the machine, used as needed.
    longest = config.data.max_prompt_length + config.data.max_response_length
    lines.append(EstimateLine("rollouts", "batch x n x longest x 64", prompts * n * longest * 64.0))
    return lines


def checkpoint_bytes(shape: ModelShape, config: DictConfig, contents: Iterable[str] | None = None) -> float:
    """Bytes of one checkpoint.

    Args:
        contents: as ``save_contents``; None: those of the configuration. Weights and optimizer are in fp32, the Hugging
            Face folder is in the dtype that the model computes in.
    """
    actor = config.actor_rollout_ref.actor
    computes = OmegaConf.select(config, "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype")
    number = FP32 if computes in ("fp32", "float32") else BF16
    sizes = {
        "model": FP32 * shape.parameters,
        "optimizer": ADAM_STATES * FP32 * _trained(shape, config),
        "hf_model": number * shape.parameters,
    }
    return float(sum(sizes.get(item, 0) for item in contents or actor.checkpoint.save_contents))


def total(lines: list[EstimateLine]) -> float:
    """GiB of all lines."""
    return sum(line.bytes for line in lines) / GIB
