"""Sizes that must fit each other: batches, lengths, parallel degrees; and what the trainer supports."""

from collections.abc import Iterator
from types import SimpleNamespace

from omegaconf import DictConfig

from recipe.critic_r1.images.prompt_path import ONCE, STOCK, reason_for_stock
from recipe.critic_r1.preflight.finding import Finding
from recipe.critic_r1.preflight.memory_estimate import longest_sequence, workers
from recipe.critic_r1.preflight.model_shape import ModelShape, read_config


def batches(config: DictConfig) -> Iterator[Finding]:
    """A batch divides into mini-batches, and those into micro-batches on all workers."""
    mini, batch = config.actor_rollout_ref.actor.ppo_mini_batch_size, config.data.train_batch_size
    if batch % mini:
        yield Finding(
            "batch sizes",
            "fail",
            f"data.train_batch_size={batch} is not a multiple of actor.ppo_mini_batch_size={mini}",
            "Choose a mini-batch size that divides the batch.",
        )
    actor, rollout, ref = (config.actor_rollout_ref[part] for part in ("actor", "rollout", "ref"))
    replicas = max(1, workers(config) // actor.ulysses_sequence_parallel_size)
    if mini * rollout.n % replicas:
        yield Finding(
            "batch sizes",
            "fail",
            f"a mini-batch of {mini} prompts x {rollout.n} rollouts does not divide among {replicas} worker(s)",
            "Choose another actor.ppo_mini_batch_size or number of GPUs.",
        )
    elif not actor.use_dynamic_bsz:
        for name, prompts, micro in (
            ("actor.ppo_micro_batch_size_per_gpu", mini, actor.ppo_micro_batch_size_per_gpu),
            ("rollout.log_prob_micro_batch_size_per_gpu", batch, rollout.log_prob_micro_batch_size_per_gpu),
            ("ref.log_prob_micro_batch_size_per_gpu", batch, ref.log_prob_micro_batch_size_per_gpu),
        ):
            rollouts = prompts * rollout.n
            if micro is not None and rollouts % (replicas * micro):
                yield Finding(
                    "micro-batch sizes",
                    "fail",
                    f"{prompts} prompts x {rollout.n} rollouts = {rollouts} do not divide into micro-batches of "
                    f"{micro} on {replicas} worker(s)",
                    f"Choose actor_rollout_ref.{name} so that {replicas} x it divides {rollouts}.",
                )


def room(config: DictConfig) -> Iterator[Finding]:
    """The longest sequence fits into the rollout engine and a micro-batch."""
    longest = longest_sequence(config)
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    if rollout.max_model_len is not None and longest > rollout.max_model_len:
        yield Finding(
            "rollout.max_model_len",
            "fail",
            f"max_prompt_length + max_response_length = {longest} is more than "
            f"rollout.max_model_len={rollout.max_model_len}",
            "Raise rollout.max_model_len or lower one of the two.",
        )
    if not rollout.enable_chunked_prefill and rollout.max_num_batched_tokens < (rollout.max_model_len or longest):
        yield Finding(
            "rollout.max_num_batched_tokens",
            "fail",
            f"a prompt can be longer than {rollout.max_num_batched_tokens} tokens, and chunked prefill is off",
            "Raise rollout.max_num_batched_tokens or set rollout.enable_chunked_prefill=true.",
        )
    limit = actor.ppo_max_token_len_per_gpu * actor.ulysses_sequence_parallel_size
    if actor.use_dynamic_bsz and longest > limit:
        yield Finding(
            "actor.ppo_max_token_len_per_gpu",
            "fail",
            f"a sequence of {longest} tokens does not fit into a micro-batch of {limit}",
            f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={longest} or more.",
        )


def parallel(config: DictConfig) -> Iterator[Finding]:
    """Tensor parallelism of the rollout engine and sequence parallelism of the actor."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    total, sequence = workers(config), actor.ulysses_sequence_parallel_size
    tensor = rollout.tensor_model_parallel_size
    engine = tensor * rollout.data_parallel_size * rollout.pipeline_model_parallel_size
    if total % engine:
        yield Finding(
            "rollout parallelism",
            "fail",
            f"{total} GPU(s) do not divide into rollout engines of {engine}",
            "Choose rollout.tensor_model_parallel_size so that it divides trainer.nnodes x trainer.n_gpus_per_node.",
        )
    if tensor > config.trainer.n_gpus_per_node:
        yield Finding(
            "rollout parallelism",
            "warn",
            f"tensor parallelism of {tensor} spans machines of {config.trainer.n_gpus_per_node} GPU(s): slow",
            "Keep rollout.tensor_model_parallel_size within a machine.",
        )
    if total % sequence:
        yield Finding(
            "sequence parallelism",
            "fail",
            f"{total} GPU(s) do not divide into groups of {sequence}",
            "Choose actor.ulysses_sequence_parallel_size so that it divides the number of GPUs.",
        )
    if sequence > 1 and not config.actor_rollout_ref.model.use_remove_padding:
        yield Finding(
            "sequence parallelism",
            "fail",
            "it needs padding removal",
            "actor_rollout_ref.model.use_remove_padding=true, or ulysses_sequence_parallel_size=1.",
        )
    shape = ModelShape.of(config)
    degrees = {"rollout.tensor_model_parallel_size": tensor, "actor.ulysses_sequence_parallel_size": sequence}
    for name, degree in degrees.items():
        if shape is not None and shape.heads % degree:
            detail = f"the model's {shape.heads} attention heads do not divide by {name}={degree}"
            yield Finding("attention heads", "fail", detail, f"Choose a divisor of {shape.heads}.")


def prompts(config: DictConfig) -> Iterator[Finding]:
    """``critic_r1.prompt_path`` is known, and `once` applies to this run."""
    path, name = config.critic_r1.prompt_path, "critic_r1.prompt_path"
    if path not in (ONCE, STOCK):
        yield Finding(name, "fail", f"{path!r} is neither {ONCE!r} nor {STOCK!r}", "Choose one of the two.")
    if path != ONCE:
        return
    actor, reason = config.actor_rollout_ref.actor, None
    model = read_config(str(config.actor_rollout_ref.model.path))
    if config.trainer.v1.trainer_mode != "critic_sync":
        reason = f"trainer mode {config.trainer.v1.trainer_mode} does not share prompts"
    elif actor.strategy not in ("fsdp", "fsdp2"):
        reason = f"strategy {actor.strategy} does not share prompts"
    elif model is not None:
        text = SimpleNamespace(**(model.get("text_config") or model))
        reason = reason_for_stock(text, str(model.get("model_type")), actor.ulysses_sequence_parallel_size)
    if reason is not None:
        yield Finding(
            name,
            "warn",
            f"once: {reason}; prompts are computed again for each rollout",
            "The run works as it is; critic_r1.prompt_path=stock silences this warning.",
        )


def trainer(config: DictConfig) -> Iterator[Finding]:
    """Features that the chosen trainer lacks."""
    mode = config.trainer.v1.trainer_mode
    if mode == "critic_sync":
        return
    yield Finding(
        "trainer mode",
        "warn",
        f"{mode} is verl's own: no critic metrics, no train/samples.jsonl, no check that rollout and actor agree",
        "trainer.v1.trainer_mode=critic_sync for those.",
    )
    if config.critic_r1.swap_consistency.weight > 0:
        yield Finding(
            "swap consistency",
            "fail",
            f"trainer mode {mode} does not know critic_r1.swap_consistency and would train without it",
            "trainer.v1.trainer_mode=critic_sync, or critic_r1.swap_consistency.weight=0.",
        )
