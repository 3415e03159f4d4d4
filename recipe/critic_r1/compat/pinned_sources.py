"""The functions that the shared image path replaces, calls in verl's stead or reads the results of.

Each with the digest of its source in verl 0.9.1. When one is changed, what both paths store may no longer be the same
without any error: a field is missing, an image is processed another way. So the run is refused instead
(`compat.check_sources`). For another release: compare each function with ours, run
``tests/rollout/test_shared_rollout.py``, and take over what `compat.source_digest` gives.
"""

FUNCTIONS = {
    "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopManagerTQ.__init__": "9f1e99d66170",
    "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopManagerTQ.generate_sequences": "de5ab7fe3385",
    "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopWorkerTQ.generate_sequences": "4d7178988eae",
    "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopWorkerTQ._run_prompt": "3d9bca6b0ea5",
    "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopWorkerTQ._agent_loop_postprocess": "523edacbff73",
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._balance_batch": "f9b6e887d750",
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._run_agent_loop": "32c3d607c5d4",
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_multi_modal_inputs": "c1bf0d04b739",
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_position_ids": "f5bb787c5f98",
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_score": "cf4b57719ad3",
    "verl.experimental.agent_loop.agent_loop:AgentLoopBase.ct_merge_assistant_token": "d8cbb98f7358",
    "verl.experimental.agent_loop.single_turn_agent_loop:SingleTurnAgentLoop.run": "1baec41cee2d",
    "verl.workers.rollout.llm_server:LLMServerClient._acquire_server": "4afa9eaba4c5",
    "verl.workers.rollout.llm_server:LLMServerClient._release_server": "a06a7f1ee356",
    "verl.workers.rollout.llm_server:LLMServerClient.generate": "45f4cf4029f0",
    "verl.utils.dataset.rl_dataset:RLHFDataset._build_messages": "227d9e77181d",
    "verl.utils.dataset.rl_dataset:RLHFDataset._process_multi_modal_info": "d7822468d2aa",
    "verl.utils.tokenizer.tokenizer:build_multimodal_processor_inputs": "cc2962718537",
    "verl.utils.model:extract_multi_modal_inputs": "8f1bc6201191",
    "verl.workers.engine.utils:prepare_micro_batches": "e3083217530f",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngine.forward_backward_batch": "be92c8d155f0",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead.prepare_model_inputs": "e7a30a3b61b5",
    "transformers.models.qwen2_vl.image_processing_qwen2_vl:Qwen2VLImageProcessor._preprocess": "81522940a5e5",
}

SERVER_FUNCTIONS = {
    "verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMHttpServer.generate": "383d68000163",
    "verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMHttpServer.abort_all_requests": "c7fe6fd911f3",
    "verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMReplica.__init__": "a43756da3be1",
    "verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMReplica.launch_servers": "a4c215d901eb",
}
"""The same for `group_server`; to look at them imports vLLM."""

PROMPT_FUNCTIONS = {
    "verl.workers.engine.utils:prepare_micro_batches": "e3083217530f",
    "verl.workers.engine.utils:postprocess_batch_func": "83c8d9c984b3",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngine.forward_backward_batch": "be92c8d155f0",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead.forward_step": "ec2681395b00",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead.prepare_model_inputs": "e7a30a3b61b5",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead.prepare_model_outputs": "5239f536e8f6",
    "verl.workers.utils.padding:no_padding_2_padding": "0868d5c4731b",
    "verl.workers.utils.padding:response_from_nested": "41a4bf54aa98",
    "verl.models.transformers.qwen2_vl:qwen2_vl_attn_forward": "f7121547e481",
    "verl.models.transformers.qwen2_vl:qwen2_vl_base_forward": "6a10a4923488",
    "verl.models.transformers.qwen2_vl:qwen2_vl_forward": "ce9590fb24f4",
    "verl.models.transformers.qwen2_vl:forward_with_normal_backend": "18d07bd343e2",
    "verl.models.transformers.qwen2_vl:forward_with_torch_backend": "21516aed228b",
    "verl.models.transformers.qwen2_vl:forward_with_triton_backend": "e5a4c413912d",
    "verl.models.transformers.qwen3_vl:qwen3_vl_base_forward": "687ce1860049",
    "verl.models.transformers.qwen3_vl:forward_with_normal_backend": "7150da2a9b7d",
    "verl.models.transformers.qwen3_vl:forward_with_torch_backend": "c428c9324e11",
    "verl.models.transformers.qwen3_vl:forward_with_triton_backend": "6d2977e91bd5",
    "transformers.models.qwen2_vl.modeling_qwen2_vl:Qwen2VLTextModel.forward": "823b084a25aa",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl:Qwen2_5_VLTextModel.forward": "823b084a25aa",
    "transformers.models.qwen3_vl.modeling_qwen3_vl:Qwen3VLTextModel.forward": "315e088611c2",
}
"""The functions that computing a prompt once replaces, calls or reads the results of."""

REMEDY = "Install verl as it was released (see requirements/), or take verl's own path with critic_r1.image_path=stock."
PROMPT_REMEDY = (
    "Install verl as it was released (see requirements/), or take verl's own path with critic_r1.prompt_path=stock."
)
