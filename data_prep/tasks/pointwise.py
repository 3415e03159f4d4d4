"""A single response with a score: the pointwise half of critic data as a checkable task.

Kept beside the pairwise task because one set ships both. The judge must name the number; how much a near miss earns is
the reward's business (`reward_fns.pointwise`). Sources rate on scales of their own; every task asks for a number on the
reward's scale, so that rows of several sources can be mixed without options, and keeps the original score in its meta.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from data_prep.tasks.pairwise import Split, content_id, known_hashes, meta_texts
from data_prep.tasks.prompts import score_prompt, valid_text
from data_prep.tasks.row import HasRow, Image, Row
from reward_fns.pointwise import SCALE


@dataclass(frozen=True)
class ScoredResponse:
    """One question, one response and the score it was given."""

    source: str
    images: tuple[Image, ...]
    question: str
    response: str
    score: float
    lowest: float = 0.0
    """Worst score of the scale."""
    highest: float = 100.0
    """Best score of the scale."""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def pair_id(self) -> str:
        """Content hash, as `PreferencePair.pair_id`."""
        images = (i.blake3 for i in self.images)
        return content_id(self.source, *images, self.question, self.response, f"{self.score:g}")


@dataclass(frozen=True)
class ScoreTask(HasRow):
    """Judge one response by a number."""

    item: ScoredResponse
    split: Split = "train"
    index: int = 0

    @property
    def ground_truth(self) -> str:
        """The score on the reward's scale, as text."""
        item = self.item
        share = (item.score - item.lowest) / (item.highest - item.lowest)
        return f"{SCALE[0] + share * (SCALE[1] - SCALE[0]):g}"

    @cached_property
    def prompt(self) -> str:
        """The user turn."""
        item = self.item
        return score_prompt(item.question, item.response, len(item.images), *SCALE)

    def flat(self, prompt_tokens: int | None = None) -> Row:
        """The row; the ground truth is the number as text."""
        item = self.item
        source_id, meta = meta_texts({**item.meta, "score": item.score, "scale": [item.lowest, item.highest]})
        return Row(
            data_source=f"critic_score/{item.source}",
            prompt=self.prompt,
            images=item.images,
            ability="critic_score",
            ground_truth=self.ground_truth,
            index=self.index,
            split=self.split,
            pair_id=item.pair_id,
            question=valid_text(item.question),
            responses=[valid_text(item.response)],
            prompt_tokens=prompt_tokens,
            image_blake3=known_hashes(item.images),
            source_id=source_id,
            meta=meta,
        )
