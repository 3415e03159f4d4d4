"""verl on a machine without an accelerator: platform, FSDP2 engine and vLLM worker for device ``cpu``.

Nothing here is imported unless ``VERL_PLATFORM=cpu``; our CPU configurations set it for every process of a run.
"""
