"""What verl imports by itself in every process (entry point group ``verl.plugins``).

It must stay light, because each of a run's ten or so processes pays for it, and it must not import verl's trainers,
because it runs in the last lines of ``import verl``. So it registers the CPU platform, applies the patches of
`compat`, and nothing else: the trainer registers itself when the task runner imports it
(`recipe.critic_r1.training.task_runner`), the FSDP engine when verl imports ``model.external_lib``.

verl swallows an exception raised here (it is logged at DEBUG). `critic-r1 doctor` and every start of
`recipe.critic_r1.train` therefore ask for `loaded()` instead of trusting silence.
"""

import os

_loaded = False


def on_cpu() -> bool:
    """Whether this process was asked to run verl on the CPU platform (``VERL_PLATFORM=cpu``)."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"


def loaded() -> bool:
    """Whether the plug-in ran to its end in this process."""
    return _loaded


def activate() -> None:
    """Put this process on the platform that ``VERL_PLATFORM`` names now.

    For a driver that imported verl to compose its configuration, before the configuration told it the platform.
    """
    if on_cpu():
        from verl.plugin.platform import get_platform, set_platform

        from recipe.critic_r1 import compat
        from recipe.critic_r1.cpu.platform import PlatformCPU

        compat.apply_cpu()
        if not isinstance(get_platform(), PlatformCPU):
            set_platform(PlatformCPU())


def _load() -> None:
    global _loaded
    from recipe.critic_r1 import compat

    compat.apply()
    if on_cpu():
        from recipe.critic_r1.cpu import platform  # noqa: F401  (registers itself)

        compat.apply_cpu()
    _loaded = True


_load()
