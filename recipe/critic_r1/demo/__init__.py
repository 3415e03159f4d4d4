"""The paper in miniature on a CPU."""

from typing import Literal

WorldName = Literal["digits", "easy_vqa"]
"""Worlds of the demo; see `demo.worlds`."""

VariantName = Literal["swap_consistency", "counterfactual", "grounded", "rubric", "scores", "nway"]
"""Variants of the critic task that the demo can train; `demo.phrases.VARIANTS` has their texts."""
