"""Functions of other libraries that our code replaces, reimplements or depends on, with digests of their code.

When one of them changes, results may change without any error: a missing field, an image processed differently. So the
run is refused (`compat.check_sources`). To move to another release, compare each function with ours, run the tests that
name it, and copy the digests that ``python -m recipe.critic_r1.compat`` prints.
"""

PATCHED = {
    "vllm.multimodal.media.image:ImageMediaIO.load_bytes": "1279627a25c4",
    "verl.utils.tensordict_utils:maybe_fix_3d_position_ids": "022298bd44e1",
    "verl.models.transformers.qwen2_vl:_get_input_embeds": "a6982cd68878",
    "torch.distributed:init_process_group": "2e8de82d8bf6",
    "verl.models.transformers.qwen2_vl:qwen2_vl_attn_forward": "64843d03a16e",
    "verl.workers.engine.fsdp.transformer_impl:prepare_micro_batches": "3b3ec076950b",
    "verl.workers.engine.fsdp.transformer_impl:load_fsdp_model_to_gpu": "7f1501deee31",
    "verl.workers.engine.fsdp.transformer_impl:offload_fsdp_model_to_cpu": "fc2e62026dba",
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._wait_for_next_poll": "0a5425187a05",
}
"""Replaced by patches."""

TRAINER_FUNCTIONS = {
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._init_dataloader": "3095bfd88e03",
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_old_log_prob": "09aec895f814",
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_ref_log_prob": "0a5bca835e86",
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_advantage": "1cf99eace97c",
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._load_checkpoint": "573f289a44a1",
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._save_checkpoint": "63c5028687d8",
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_metrics": "f09e9dce386a",
}
"""Overridden by trainer mode critic_sync."""

FUNCTIONS = {
    "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopManagerTQ.__init__": "886aa1da988f",
    "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopManagerTQ.generate_sequences": "900ed2b6e23f",
    "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopWorkerTQ.generate_sequences": "1a6c9b31054c",
    "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopWorkerTQ._run_prompt": "c940b3af480b",
    "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopWorkerTQ._agent_loop_postprocess": "8e78134094e7",
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._balance_batch": "b62932587b84",
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._run_agent_loop": "7b47bdffee22",
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_multi_modal_inputs": "533f311ca22f",
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_position_ids": "d38a8f310bcf",
    "verl.experimental.agent_loop.agent_loop:AgentLoopWorker._compute_score": "98bc74142cbf",
    "verl.experimental.agent_loop.agent_loop:AgentLoopBase.ct_merge_assistant_token": "847d8f676248",
    "verl.experimental.agent_loop.single_turn_agent_loop:SingleTurnAgentLoop.run": "0714f4d702d9",
    "verl.workers.rollout.llm_server:LLMServerClient._acquire_server": "560eb1d08cd8",
    "verl.workers.rollout.llm_server:LLMServerClient._release_server": "8803f1195f49",
    "verl.workers.rollout.llm_server:LLMServerClient.generate": "efbcd0e442b2",
    "verl.utils.dataset.rl_dataset:RLHFDataset.__getitem__": "8d95029834c0",
    "verl.utils.dataset.rl_dataset:RLHFDataset._build_messages": "0648b3093601",
    "verl.utils.dataset.rl_dataset:RLHFDataset._process_multi_modal_info": "c31be02a21a1",
    "verl.utils.tokenizer.tokenizer:build_multimodal_processor_inputs": "4b2021405049",
    "verl.utils.model:extract_multi_modal_inputs": "1c6d60a9be68",
    "verl.workers.engine.utils:prepare_micro_batches": "3b3ec076950b",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngine.forward_backward_batch": "79f669e00fc5",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead.prepare_model_inputs": "8e093708845c",
    "transformers.models.qwen2_vl.image_processing_qwen2_vl:Qwen2VLImageProcessor._preprocess": "d6296e2b90d5",
}
"""Used by the shared image path (``critic_r1.image_path=shared``)."""

SERVER_FUNCTIONS = {
    "verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMHttpServer.generate": "eb60d3c5f052",
    "verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMHttpServer.abort_all_requests": "581ecd11d873",
    "verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMReplica.__init__": "003ee2531fcf",
    "verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMReplica.launch_servers": "bbb91b7b98b4",
}
"""Overridden by the rollout server; looking them up imports vLLM."""

PROMPT_FUNCTIONS = {
    "verl.workers.engine.utils:prepare_micro_batches": "3b3ec076950b",
    "verl.workers.engine.utils:postprocess_batch_func": "aade8222771c",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngine.forward_backward_batch": "79f669e00fc5",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead.forward_step": "8f67573dccad",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead.prepare_model_inputs": "8e093708845c",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead.prepare_model_outputs": "852ffb4afa33",
    "verl.workers.utils.padding:no_padding_2_padding": "892ab9ea1d22",
    "verl.workers.utils.padding:response_from_nested": "f1ed685427e6",
    "verl.models.transformers.qwen2_vl:qwen2_vl_attn_forward": "64843d03a16e",
    "verl.models.transformers.qwen2_vl:qwen2_vl_base_forward": "c0f6d75622da",
    "verl.models.transformers.qwen2_vl:qwen2_vl_forward": "4dd088161679",
    "verl.models.transformers.qwen2_vl:forward_with_normal_backend": "a2710b8cd92d",
    "verl.models.transformers.qwen2_vl:forward_with_torch_backend": "cf8fbcb0b8f6",
    "verl.models.transformers.qwen2_vl:forward_with_triton_backend": "91da95b164b2",
    "verl.models.transformers.qwen3_vl:qwen3_vl_base_forward": "f64a1c2139f4",
    "verl.models.transformers.qwen3_vl:forward_with_normal_backend": "66ecb8c11f67",
    "verl.models.transformers.qwen3_vl:forward_with_torch_backend": "50c72a77caa1",
    "verl.models.transformers.qwen3_vl:forward_with_triton_backend": "b5dc4493cb50",
    "transformers.models.qwen2_vl.modeling_qwen2_vl:Qwen2VLTextModel.forward": "f47acdd5b24a",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl:Qwen2_5_VLTextModel.forward": "f47acdd5b24a",
    "transformers.models.qwen3_vl.modeling_qwen3_vl:Qwen3VLTextModel.forward": "a7daa5e88527",
}
"""Used for computing a prompt once (``critic_r1.prompt_path=once``), which ``tests/images/test_prompts.py`` tests."""

_RELEASED = "Install verl as it was released (see requirements/), or use verl's own "
REMEDY = f"{_RELEASED}path with critic_r1.image_path=stock."
PROMPT_REMEDY = f"{_RELEASED}path with critic_r1.prompt_path=stock."
TRAINER_REMEDY = f"{_RELEASED}trainer and image path with trainer.v1.trainer_mode=sync critic_r1.image_path=stock."
