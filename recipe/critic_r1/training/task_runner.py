"""verl's task runner with our trainer registered in its process.

verl looks the trainer up by name inside the remote task runner, so the module that registers it has to be imported
there. Users of verl's own `main_ppo` reach the same with
``VERL_USE_EXTERNAL_MODULES=recipe.critic_r1.training.trainer``.
"""

from typing import Any

import ray
from verl.trainer.main_ppo import TaskRunnerV1

# verl offers the class only wrapped by @ray.remote; this is what is inside.
_TaskRunner: Any = TaskRunnerV1.__ray_metadata__.modified_class


@ray.remote
class CriticTaskRunner(_TaskRunner):  # type: ignore[misc]
    """Runs `verl.trainer.main_ppo`'s task with the trainer modes of this recipe available."""

    def run(self, config: Any) -> None:
        from recipe.critic_r1 import plugin
        from recipe.critic_r1.training import trainer as _registers_critic_sync  # noqa: F401

        if not plugin.loaded():
            raise RuntimeError("the critic-r1 plug-in did not load in the task runner; run `critic-r1 doctor`")
        super().run(config)
