"""Estimates of the GPU memory, host memory and disk space of a run.

They add up what verl 0.9.1, FSDP, Adam and vLLM hold, each line with its formula, so that a user can see what to
change. Every sequence of a micro-batch is counted at its longest; real batches are smaller. P is the number of
parameters, N the number of GPUs, T the tokens of a micro-batch.

docs/cluster.md compares the estimates with published memory use. They have not been compared with a GPU run of our own.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from recipe.critic_r1.preflight.model_shape import ModelShape, lora_parameters
from recipe.critic_r1.preflight.software import has_flash_attn
from recipe.critic_r1.rollout import PREPARED_AT_ONCE

GIB = 1024**3

FP32, BF16 = 4, 2
"""Bytes of a number."""

ADAM_STATES = 2
"""Running mean and mean square of each gradient, in fp32."""

ACTIVATIONS_PER_LAYER = 8
"""Hidden-sized tensors alive in the one layer that is recomputed (norms, query, key, value, attention, residuals), on
top of four of intermediate size (gate, up, their product, its gradient). Inferred from the layer's code."""

BYTES_PER_PIXEL = 24
"""Of a model's input: three fp32 channels, doubled for the temporal patch of two frames."""

BYTES_PER_DECODED_PIXEL = 3

ENCODED_BYTES_PER_PIXEL = 0.25
"""Of a JPEG photograph, for files that were not read."""

STOCK_COPIES = 3
"""Copies of a rollout's pixels on verl's own path: in the agent-loop worker, in TransferQueue and in the training
worker (measured: benchmarks/results/images.json)."""

PROCESSOR_SECONDS = 0.05
"""CPU seconds of the image processor per million pixels; from the same measurement."""

PROCESSOR_PASSES = {"stock": 3, "shared": 2}
"""Passes through the image processor in a step: for each rollout on verl's path (prompt tokens, reward, training
inputs), for each prompt on ours (prompt tokens, pixels in the training worker). The rollout engine adds one a prompt to
both."""

ENGINE_IMAGE_CACHE = 4 * GIB
"""vLLM's ``mm_processor_cache_gb``; its API process and its engine core hold one each."""

PROCESS_GIB = 12.0
"""Host memory of a GPU's training process and rollout worker before a model is loaded: CUDA, libraries, pinned buffers.
verl issue 224 reports 11 GB a process for a 7B text model."""

CUDA_GIB = 2.5
"""GPU memory outside torch's allocator: two CUDA contexts, NCCL and cuBLAS buffers. Inferred."""

FUSED_CHUNK = 512
"""Tokens that verl's fused head computes at a time, in fp32."""

LOSS_COPIES = 2
"""Copies of the logits that verl's loss makes without flash-attn's cross-entropy, which works in place."""


def workers(config: DictConfig) -> int:
    """GPUs (or CPU workers) that train."""
    return int(config.trainer.nnodes * config.trainer.n_gpus_per_node)


def longest_sequence(config: DictConfig) -> int:
    """Tokens of a prompt and a response, both at their limits."""
    return int(config.data.max_prompt_length + config.data.max_response_length)


@dataclass(frozen=True)
class EstimateLine:
    """One part of an estimate."""

    name: str
    formula: str
    bytes: float


def _trained(shape: ModelShape, config: DictConfig) -> int:
    rank = config.actor_rollout_ref.model.lora_rank
    return lora_parameters(shape, rank) if rank > 0 else shape.parameters


def micro_batch_tokens(config: DictConfig) -> int:
    """Tokens of an actor's micro-batch on one GPU, every sequence at its longest."""
    actor = config.actor_rollout_ref.actor
    if actor.use_dynamic_bsz:
        return int(actor.ppo_max_token_len_per_gpu)
    return int(actor.ppo_micro_batch_size_per_gpu * longest_sequence(config) / actor.ulysses_sequence_parallel_size)


def predicting_tokens(config: DictConfig) -> int:
    """Tokens of an actor's micro-batch whose logits are computed; only response tokens when prompts are shared."""
    part, tokens = config.actor_rollout_ref, micro_batch_tokens(config)
    if config.critic_r1.prompt_path != "once" or part.actor.ulysses_sequence_parallel_size > 1:
        return tokens
    prompt, response = config.data.max_prompt_length, config.data.max_response_length
    # The worst of two packings: rows of different prompts, or all rows of one prompt.
    rows = max(tokens // (prompt + response), min(part.rollout.n, (tokens - prompt) // response))
    return int(rows * response)


@dataclass(frozen=True)
class GroupCost:
    """The update of one prompt's rollouts on a GPU, as one micro-batch with gradient checkpointing."""

    tokens: int
    """Tokens through the language model."""
    logits: int
    """Tokens whose logits are computed."""
    bytes: float
    """Checkpointed inputs, one recomputed layer, and logits with their gradient."""


def group_cost(shape: ModelShape, prompt: int, response: int, n: int, path: str) -> GroupCost:
    """The cost of ``n`` responses of ``response`` tokens each to a prompt; ``path`` is ``critic_r1.prompt_path``."""
    tokens = prompt + n * response if path == "once" else n * (prompt + response)
    logits = n * response if path == "once" else tokens
    layers = shape.hidden * shape.layers + ACTIVATIONS_PER_LAYER * shape.hidden + 4 * shape.intermediate
    return GroupCost(tokens, logits, BF16 * (tokens * layers + 2 * logits * shape.vocabulary))


def training_lines(shape: ModelShape, config: DictConfig) -> list[EstimateLine]:
    """GPU memory while the actor is updated."""
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
        gathered, formula = trained / shape.layers, "adapters only"
    elif part.actor.strategy == "fsdp":
        gathered = shape.embedding_parameters + shape.merger_parameters
        formula = "4 x FSDP1's root unit (embeddings and merger), fp32"
    else:
        gathered, formula = max(shape.layer_parameters, shape.vocabulary * shape.hidden), "4 x the largest unit, fp32"
    lines.append(EstimateLine("gathered gradients", formula, FP32 * gathered))
    layer = tokens * (ACTIVATIONS_PER_LAYER * shape.hidden + 4 * shape.intermediate) * BF16
    if part.model.enable_gradient_checkpointing:
        inputs = BF16 * tokens * shape.hidden * shape.layers
        lines.append(EstimateLine("checkpointed inputs", "2 T x hidden x layers", inputs))
        lines.append(EstimateLine("one layer again", "2 T (8 hidden + 4 intermediate)", layer))
    else:
        lines.append(EstimateLine("activations", "2 T (8 hidden + 4 intermediate) x layers", layer * shape.layers))
    lines += _vision_lines(shape, config, tokens)
    if part.model.use_fused_kernels:
        head = FP32 * shape.vocabulary * (shape.hidden * (trained == p) + 2 * FUSED_CHUNK)
        formula = "4 vocabulary x hidden (its gradient) + 2 chunks of logits, fp32"
        return [*lines, EstimateLine("fused head", formula, head)]
    predicting = predicting_tokens(config)
    counted = "response tokens (prompts computed once)" if predicting < tokens else "T"
    logits = BF16 * predicting * shape.vocabulary
    lines.append(EstimateLine("logits", f"2 {counted} x vocabulary, their gradient in place", logits))
    if not has_flash_attn():
        formula = "2 more, without flash-attn's cross-entropy"
        lines.append(EstimateLine("copies of the logits", formula, LOSS_COPIES * logits))
    return lines


def log_probability_lines(shape: ModelShape, config: DictConfig) -> list[EstimateLine]:
    """GPU memory while the old log-probabilities and their entropy are computed."""
    part = config.actor_rollout_ref
    lines = [_kept(shape, config), _gathered_weights(shape)]
    if part.model.use_fused_kernels:
        chunks = FP32 * 2 * FUSED_CHUNK * shape.vocabulary
        return [*lines, EstimateLine("fused head", "2 chunks of logits, fp32", chunks)]
    tokens = _log_probability_tokens(config)
    logits = BF16 * tokens * shape.vocabulary
    lines.append(EstimateLine("logits", "2 T' x vocabulary, T' the tokens of this pass", logits))
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
    sequence = config.actor_rollout_ref.actor.ulysses_sequence_parallel_size
    return int(rollout.log_prob_micro_batch_size_per_gpu * longest_sequence(config) / sequence)


def _vision_lines(shape: ModelShape, config: DictConfig, tokens: int) -> list[EstimateLine]:
    """The vision tower's checkpointed inputs for the largest images that a micro-batch can hold."""
    largest = (config.data.mm_processor_kwargs or {}).get("max_pixels")
    if not largest:
        return []
    rows = max(1, tokens // longest_sequence(config))
    # Our engine encodes an image once in a micro-batch, and the rollouts of a prompt stay together.
    images = rows if config.critic_r1.image_path == "stock" else -(-rows // config.actor_rollout_ref.rollout.n)
    patches = images * largest / shape.vision.get("patch_size", 14) ** 2
    held = BF16 * patches * shape.vision["hidden_size"] * shape.vision["depth"]
    return [EstimateLine("vision checkpoints", "2 patches x vision hidden x depth, images at the pixel limit", held)]


def rollout_lines(shape: ModelShape, config: DictConfig, gpu_gib: float) -> list[EstimateLine]:
    """GPU memory while the rollout engine generates; the KV cache gets the engine's share without the weights."""
    rollout = config.actor_rollout_ref.rollout
    share = rollout.gpu_memory_utilization * gpu_gib * GIB
    weights = BF16 * shape.parameters / rollout.tensor_model_parallel_size
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
    """Tokens that fit into the KV cache of one rollout engine; negative when not even the weights fit."""
    tensor = int(config.actor_rollout_ref.rollout.tensor_model_parallel_size)
    room = rollout_lines(shape, config, gpu_gib)[-1].bytes
    return tensor * room / shape.kv_bytes_per_token


def image_lines(config: DictConfig, pixels: float, file_bytes: float) -> list[EstimateLine]:
    """Host memory of images during a step; docs/scaling.md has the reasons and measurements.

    Args:
        pixels: mean number of pixels of a prompt's images, after the processor's resizing.
        file_bytes: mean size of their files.
    """
    rollout, prompts = config.actor_rollout_ref.rollout, config.data.train_batch_size
    gpus, nodes = config.trainer.n_gpus_per_node, config.trainer.nnodes
    engines = max(1, gpus // rollout.tensor_model_parallel_size)
    seen = prompts / (engines * nodes) * pixels * BYTES_PER_PIXEL
    cached, formula = 2 * engines * min(ENGINE_IMAGE_CACHE, seen), "2 x engines of a machine x at most 4 GiB"
    cache = EstimateLine("image cache of the rollout engines", formula, cached)
    decoded = BYTES_PER_DECODED_PIXEL * pixels
    if config.critic_r1.image_path == "stock":
        stored = prompts * rollout.n * (STOCK_COPIES * BYTES_PER_PIXEL * pixels + 2 * (decoded + file_bytes))
        formula = f"batch x n x ({STOCK_COPIES} x 24 pixels + 2 (3 pixels + file))"
        return [EstimateLine("images", formula, stored), cache]
    micro = config.actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu or 1
    preparing = rollout.agent.num_workers * PREPARED_AT_ONCE * BYTES_PER_PIXEL * pixels
    kept = min(config.critic_r1.pixels.cache_gib * GIB, seen * engines / gpus)
    training = gpus * (kept + micro * BYTES_PER_PIXEL * pixels)
    formula = "GPUs of a machine x (cache + micro-batch x 24 pixels)"
    return [
        EstimateLine("images", "batch x n x file + batch x 3 pixels", prompts * (rollout.n * file_bytes + decoded)),
        EstimateLine("images in preparation", "agent-loop workers x 4 x 24 pixels", preparing),
        EstimateLine("pixels of the training workers", formula, training),
        cache,
    ]


def image_cpu_seconds(config: DictConfig, pixels: float) -> tuple[float, str]:
    """CPU seconds of the image processor on each machine in a step, and the formula; ``pixels`` as in `image_lines`."""
    path, prompts = config.critic_r1.image_path, config.data.train_batch_size
    times, shown = (config.actor_rollout_ref.rollout.n, "batch x n") if path == "stock" else (1, "batch")
    passes = PROCESSOR_PASSES[path] * times + 1
    seconds = prompts * passes * PROCESSOR_SECONDS * pixels / 1e6 / config.trainer.nnodes
    formula = f"({PROCESSOR_PASSES[path]} x {shown} + batch) x million pixels x {PROCESSOR_SECONDS:g} s / machines"
    return seconds, formula


def host_lines(
    shape: ModelShape, config: DictConfig, mean_pixels: float | None, file_bytes: float | None = None
) -> list[EstimateLine]:
    """Host memory of the most loaded machine, the one that also runs the trainer.

    Args:
        mean_pixels: mean number of pixels of a prompt's images; None when there are no images.
        file_bytes: mean size of their files; None assumes JPEG photographs.
    """
    part, p, trained = config.actor_rollout_ref, shape.parameters, _trained(shape, config)
    gpus, nodes, fsdp = config.trainer.n_gpus_per_node, config.trainer.nnodes, part.actor.fsdp_config
    lines = [EstimateLine("processes", f"{PROCESS_GIB:g} GiB x GPUs of a machine", PROCESS_GIB * GIB * gpus)]
    if part.actor.use_kl_loss or config.algorithm.use_kl_in_reward:
        # verl always offloads the reference model to the CPU; with adapters the base model is the reference.
        reference = 0.0 if part.model.lora_rank > 0 else FP32 * p / nodes
        lines.append(EstimateLine("reference model", "4 P / machines (verl keeps it in host memory)", reference))
    numbers = p if fsdp.offload_policy or fsdp.param_offload else 0
    numbers += ADAM_STATES * trained if fsdp.offload_policy or fsdp.optimizer_offload else 0
    numbers += trained if fsdp.offload_policy else 0
    formula = "(4 P + 4 P' + 8 P') / machines, as configured"
    lines.append(EstimateLine("offloaded actor", formula, FP32 * numbers / nodes))
    if part.model.lora_rank > 0:
        weights = BF16 * p * max(1, gpus // part.rollout.tensor_model_parallel_size)
        lines.append(EstimateLine("sleeping rollout weights", "2 P x engines of a machine (adapters)", weights))
    lines.append(EstimateLine("loading and saving", "4 P on one machine (full weights)", FP32 * p))
    if mean_pixels:
        lines += image_lines(config, mean_pixels, file_bytes or ENCODED_BYTES_PER_PIXEL * mean_pixels)
    # Batches in transit, in Ray's object store; by default it takes up to 30 % of the machine, as needed.
    in_transit = config.data.train_batch_size * part.rollout.n * longest_sequence(config) * 64.0
    lines.append(EstimateLine("rollouts", "batch x n x longest x 64", in_transit))
    return lines


def checkpoint_bytes(shape: ModelShape, config: DictConfig, contents: Iterable[str] | None = None) -> float:
    """Bytes of one checkpoint: model and optimizer in fp32, the Hugging Face folder in the compute dtype.

    Args:
        contents: as ``save_contents``; None takes the configuration's.
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
    """The sum, in GiB."""
    return sum(line.bytes for line in lines) / GIB
