"""The Hydra configurations (yaml files beside this module)."""
