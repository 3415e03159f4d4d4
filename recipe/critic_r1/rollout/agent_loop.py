"""verl's agent loop with the work of a prompt done once for its n rollouts.

verl 0.9.1 runs a whole agent loop for each of the n rollouts of a prompt: it instantiates the loop through Hydra,
decodes the images, runs the image processor three times (prompt tokens, reward, training inputs), computes the
position ids of the whole sequence, and calls the reward worker. For a prompt with an image that is most of the host's
work, and it is the same n times over. Here a prompt is prepared once: images, prompt tokens and position ids, for
which the sizes of the images are enough (`recipe.critic_r1.images.token_grid`). A rollout adds its tokens; a group
is scored in one call and stored in one put. The rollout engine gets the images of a group as one object. A rollout is
stored with its images as they came, encoded; the training worker makes pixels of them (`recipe.critic_r1.images`).

What is stored for the model is the same, field by field and bit by bit, as on verl's path, which
``critic_r1.image_path=stock`` selects; tests hold the two against each other. Prompts that name an agent loop of their
own (tools, several turns), or that come with videos, audio or a distillation teacher, take verl's path too. A reward
manager sees the text of ``raw_prompt``; one with the attribute ``sees_images`` sees the images too, as files.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
import ray
import torch
import transfer_queue as tq
from tensordict import TensorDict
from verl.experimental.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.agent_loop import DictConfigWrap
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.protocol import DataProto
from verl.trainer.ppo.reward import resolve_reward_manager_cls
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ, apply_greedy_sampling_params
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from recipe.critic_r1 import compat
from recipe.critic_r1.compat.pinned_sources import FUNCTIONS, REMEDY
from recipe.critic_r1.images.dataset import bare, image_items, with_images
from recipe.critic_r1.images.encoded import PIXELS, ImageInputs, PixelSettings, travels_encoded
from recipe.critic_r1.images.token_grid import measuring
from recipe.critic_r1.rollout import PREPARED_AT_ONCE
from recipe.critic_r1.rollout.client import OneRequestPerPrompt, TimedOutput, rolled_out
from recipe.critic_r1.rollout.shared_image import SharedImage

logger = logging.getLogger(__name__)

SHARED, STOCK = "shared", "stock"

# verl offers the class only wrapped by @ray.remote; this is what is inside.
_StockWorker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class


@dataclass(frozen=True)
class PreparedPrompt:
    """What the n rollouts of a prompt have in common."""

    prompt_ids: list[int]
    """Token ids with the image placeholders expanded, (P,)."""

    images: "ray.ObjectRef[list[SharedImage]] | None"
    """Decoded images in Ray's object store: one copy for the group; None for text."""

    multi_modal_inputs: dict[str, Any] | ImageInputs
    """The processor's output without token ids: ``pixel_values``, ``image_grid_thw``, ... ; empty for text."""

    position_ids: torch.Tensor
    """(4, P) for models with multimodal rotary embeddings (text row, then three vision rows), else (P,)."""

    mm_processor_kwargs: dict[str, Any] = field(default_factory=dict)


def extend_position_ids(position_ids: torch.Tensor, tokens: int) -> torch.Tensor:
    """Position ids of a prompt followed by ``tokens`` text tokens.

    (P,) -> (P + tokens,), or (4, P) -> (4, P + tokens): the text row counts on; the vision rows go on together from
    one past the largest of them, as `get_rope_index` of the Qwen-VL family does for text after an image.
    """
    steps = torch.arange(tokens, dtype=position_ids.dtype)
    if position_ids.dim() == 1:
        return torch.cat([position_ids, position_ids[-1] + 1 + steps])
    text = torch.cat([position_ids[0], position_ids[0, -1] + 1 + steps])
    vision = torch.cat([position_ids[1:], (position_ids[1:].max() + 1 + steps).expand(3, -1)], dim=1)
    return torch.cat([text.unsqueeze(0), vision])


class SharedPromptWorker(_StockWorker):  # type: ignore[misc]
    """Agent-loop worker that prepares a prompt once for all its rollouts."""

    def __init__(self, config: Any, llm_client: Any, *args: Any, **kwargs: Any) -> None:
        compat.check_version(compat.VERL, "verl")
        super().__init__(config, OneRequestPerPrompt.instead_of(llm_client), *args, **kwargs)
        self._loop = SingleTurnAgentLoop(
            trainer_config=DictConfigWrap(config=self.config),
            server_manager=self.llm_client,
            tokenizer=self.tokenizer,
            processor=measuring(self.processor),
            hf_model_type=self.hf_model_type,
            dataset_cls=self.dataset_cls,
            data_config=DictConfigWrap(self.config.data),
        )
        self._reward_sees_images = getattr(resolve_reward_manager_cls(self.config), "sees_images", False)
        model, ours = self.model_config, self.config.critic_r1.pixels
        # A prompt in preparation holds its images decoded for a moment; all at once would not fit.
        self._preparing = asyncio.Semaphore(PREPARED_AT_ONCE)
        self._pixel_settings = PixelSettings(
            processor_path=model.tokenizer_path,
            trust_remote_code=model.trust_remote_code,
            use_shm=model.use_shm,
            cache_bytes=int(ours.cache_gib * 2**30),
            ahead=ours.ahead,
        )

    async def _run_prompt(
        self, prompt: dict[str, Any], sampling_params: dict[str, Any], trajectory: dict[str, Any], trace: bool = False
    ) -> None:
        if prompt.get("agent_name") != "single_turn_agent" or self.distillation_enabled or trace:
            await super()._run_prompt(prompt, sampling_params, trajectory, trace)
            return
        prepared = None
        try:
            async with self._preparing:
                prepared = await self._prepare(prompt)
        except Exception:
            # Reported by verl's path, which meets the same error and marks the group as failed.
            logger.exception("prompt %s cannot be prepared", prompt["uid"])
        if prepared is None:
            await super()._run_prompt(prompt, sampling_params, trajectory, trace)
            return
        await self._run_group(prompt, prepared, sampling_params, bool(trajectory["validate"]))

    async def _prepare(self, prompt: dict[str, Any]) -> PreparedPrompt | None:
        """None when the prompt has media other than images."""
        messages = list(prompt["raw_prompt"])
        data = await self._loop.process_multi_modal_info(messages)
        self._loop._assert_mm_supported(bool(data))
        if set(data) - {"images"}:
            return None
        inputs: dict[str, Any] = {}
        prompt_ids = await self._loop.ct_build_initial_tokens(messages, images=data.get("images"), mm_inputs_out=inputs)
        items = image_items(messages)
        return await asyncio.get_running_loop().run_in_executor(None, self._finish, prompt_ids, data, inputs, items)

    def _finish(
        self, prompt_ids: list[int], data: dict[str, Any], inputs: dict[str, Any], items: list[dict[str, Any]]
    ) -> PreparedPrompt:
        kwargs = self._loop._get_mm_processor_kwargs(None)
        inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}
        inputs = {name: torch.as_tensor(value) for name, value in inputs.items()}
        if (grid := inputs.get("image_grid_thw")) is not None:
            inputs["images_seqlens"] = torch.repeat_interleave(grid[:, 1] * grid[:, 2], grid[:, 0])
        ids = torch.tensor(prompt_ids, dtype=torch.int64).unsqueeze(0)
        # Takes mm_token_type_ids out of `inputs`, as it does on verl's path.
        position_ids = self._compute_position_ids(ids, torch.ones_like(ids), inputs).squeeze(0)
        images = ray.put([SharedImage.of(image) for image in data["images"]]) if data else None
        if PIXELS not in inputs:
            return PreparedPrompt(prompt_ids, images, inputs, position_ids, kwargs)
        pixels = inputs.pop(PIXELS)
        encoded = ImageInputs(inputs, items, self._pixel_settings, kwargs)
        if travels_encoded(items, pixels):
            return PreparedPrompt(prompt_ids, images, encoded, position_ids, kwargs)
        made = encoded.make_pixels() if pixels.is_meta else pixels
        return PreparedPrompt(prompt_ids, images, {PIXELS: made, **inputs}, position_ids, kwargs)

    async def _run_group(
        self, prompt: dict[str, Any], prepared: PreparedPrompt, sampling_params: dict[str, Any], validate: bool
    ) -> None:
        uid, partition = prompt["uid"], "val" if validate else "train"
        await tq.async_kv_put(key=uid, partition_id=partition, tag={"status": "running"})
        status = "failure"
        try:
            row = {name: value for name, value in prompt.items() if name != "agent_name"}
            row["raw_prompt"] = with_images(list(row["raw_prompt"]), bare)
            rollout = self.config.actor_rollout_ref.rollout
            n = row.pop("__rollout_n__", rollout.val_kwargs.n if validate else rollout.n)
            sampling = dict(sampling_params)
            if not row.pop("__do_sample__", True) and not validate:
                apply_greedy_sampling_params(sampling)
            if rollout.name == "vllm":
                # verl takes tokens and decodes them itself; only stop strings need the engine's own text.
                sampling.setdefault("detokenize", bool(sampling.get("stop")))
            outputs = await self._generate(prepared, n, sampling, int(row.get("priority", 0)))
            for error in (output for output in outputs if isinstance(output, BaseException)):
                logger.error("rollout of prompt %s failed", uid, exc_info=error)
            done = {i: output for i, output in enumerate(outputs) if isinstance(output, AgentLoopOutput)}
            if done:
                shown = list(prompt["raw_prompt"]) if self._reward_sees_images else row["raw_prompt"]
                await self._score(done, {**row, "raw_prompt": shown, "validate": validate})
                await self._put(done, row, prepared, partition)
            status = "finished" if len(done) == n else "failure"
        except Exception:
            logger.exception("prompt %s failed", uid)
        finally:
            await tq.async_kv_put(key=uid, partition_id=partition, tag={"status": status})

    async def _generate(self, prepared: PreparedPrompt, n: int, sampling: dict[str, Any], priority: int) -> list[Any]:
        """n rollouts: each an `AgentLoopOutput`, or the error that it ended with."""
        deterministic = getattr(self.rollout_config, "full_determinism", False)
        outputs = await rolled_out(
            self.llm_client,
            # verl's load balancer gives requests with one id one server; the engine's own ids are drawn later.
            f"det-{priority}" if deterministic else uuid4().hex,
            n,
            sampling,
            prompt_ids=prepared.prompt_ids,
            image_data=prepared.images,  # Ray hands the server what the reference stands for
            mm_processor_kwargs=prepared.mm_processor_kwargs,
            priority=priority,
        )
        return [self._agent_loop_output(prepared, output) for output in outputs]

    def _agent_loop_output(self, prepared: PreparedPrompt, rollout: TimedOutput) -> AgentLoopOutput | BaseException:
        if isinstance(rollout, BaseException):
            return rollout
        output, seconds = rollout
        builder = self._loop.continuous_token_builder
        merged = builder.merge_assistant_tokens(prepared.prompt_ids, output.token_ids)
        mask, log_probs = builder.align_response_metadata(
            merged, [], [] if output.log_probs else None, assistant_logprobs=output.log_probs or None
        )
        limit = self._loop.response_length
        prompt_ids = merged.token_ids[: len(merged.token_ids) - len(mask)]
        return AgentLoopOutput(
            prompt_ids=prompt_ids,
            response_ids=(merged.token_ids[-len(mask) :] if mask else [])[:limit],
            response_mask=mask[:limit],
            response_logprobs=log_probs[:limit] if log_probs else None,
            routed_experts=None if output.routed_experts is None else output.routed_experts[: len(prompt_ids) + limit],
            multi_modal_data={},
            mm_processor_kwargs=prepared.mm_processor_kwargs,
            mm_processor_output=None,
            num_turns=2,
            metrics={
                "generate_sequences": seconds,
                "num_preempted": -1 if output.num_preempted is None else output.num_preempted,
            },
            extra_fields=output.extra_fields | {"turn_scores": [], "tool_rewards": []},
        )

    async def _score(self, done: dict[int, AgentLoopOutput], row: dict[str, Any]) -> None:
        """The rewards of a group, in one call to a reward worker. ``done`` holds the rollouts by sample."""
        if self.reward_loop_worker_handles is None:
            return
        outputs = list(done.values())
        responses = [torch.tensor(output.response_ids, dtype=torch.int64) for output in outputs]
        batch = TensorDict(
            {
                # A rule-based reward reads the response and where it ends; verl's reward managers ask for no more.
                "responses": torch.nn.utils.rnn.pad_sequence(responses, batch_first=True),
                "attention_mask": torch.nn.utils.rnn.pad_sequence(
                    [torch.ones_like(response) for response in responses], batch_first=True
                ),
                "prompts": torch.tensor([output.prompt_ids for output in outputs], dtype=torch.int64),
            },
            batch_size=len(outputs),
        )
        columns = {name: [value] * len(outputs) for name, value in row.items() if name != "raw_prompt"}
        columns |= {
            "raw_prompt": [row["raw_prompt"]] * len(outputs),
            "__num_turns__": [output.num_turns for output in outputs],
            "tool_extra_fields": [output.extra_fields for output in outputs],
            "prompt_len": [len(output.prompt_ids) for output in outputs],
            "response_len": [len(output.response_ids) for output in outputs],
            "session_id": list(done),
            "group_size": [len(outputs)] * len(outputs),
        }
        data = DataProto(batch=batch, non_tensor_batch={name: _objects(values) for name, values in columns.items()})
        worker = self.reward_loop_worker_handles[hash(row["uid"]) % len(self.reward_loop_worker_handles)]
        started = asyncio.get_running_loop().time()
        results = await worker.compute_score_batch.remote(data)
        seconds = asyncio.get_running_loop().time() - started
        for output, result in zip(outputs, results, strict=True):
            output.reward_score = result["reward_score"]
            output.extra_fields["reward_extra_info"] = result["reward_extra_info"]
            output.metrics.compute_score = seconds

    async def _put(
        self, outputs: dict[int, AgentLoopOutput], row: dict[str, Any], prepared: PreparedPrompt, partition: str
    ) -> None:
        """Store a group's rollouts, each with the fields and tags of verl's path, in one put."""
        keys, fields, tags = [], [], []
        for sample, output in outputs.items():
            record = output.as_dict() | row
            record.pop("multi_modal_data", None)
            prompt_tokens, response_tokens = record["prompts"].numel(), record["responses"].numel()
            record |= {
                "session_id": sample,
                "loss_mask": record["response_mask"],
                "input_ids": torch.cat([record["prompts"], record["responses"]]),
                "position_ids": extend_position_ids(prepared.position_ids, response_tokens),
                "multi_modal_inputs": prepared.multi_modal_inputs,
            }
            keys.append(f"{row['uid']}_{sample}_0")
            fields.append(record)
            tags.append(
                {
                    "status": "success",
                    "prompt_len": prompt_tokens,
                    "response_len": response_tokens,
                    "seq_len": prompt_tokens + response_tokens,
                    "global_steps": row["global_steps"],
                    "min_global_steps": output.extra_fields.get("min_global_steps"),
                    "max_global_steps": output.extra_fields.get("max_global_steps"),
                }
            )
        await tq.async_kv_batch_put(
            keys=keys, fields=list_of_dict_to_tensordict(fields), tags=tags, partition_id=partition
        )


def _objects(values: list[Any]) -> np.ndarray:
    """A one-dimensional object array; numpy would make a list of equal-length lists two-dimensional."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


class CriticAgentLoopManager(AgentLoopManagerTQ):  # type: ignore[misc]
    """verl's manager with our worker; named in ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        path = config.critic_r1.image_path
        if path not in (SHARED, STOCK):
            raise ValueError(f"critic_r1.image_path={path!r}; choose {SHARED} or {STOCK}")
        if path == SHARED:
            compat.check_sources(FUNCTIONS, REMEDY)
            self.agent_loop_workers_class = ray.remote(SharedPromptWorker)
