"""Our agent-loop manager: how prompts become rollouts."""
