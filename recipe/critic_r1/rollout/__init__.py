"""Our agent-loop manager: how prompts become rollouts."""

PREPARED_AT_ONCE = 4
"""Prompts whose images one agent-loop worker holds at a time: decoded for the Qwen-VL family, as pixels for others."""
