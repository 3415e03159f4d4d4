"""Several responses to one question with their ranks: expanded to pairs, or kept as one task with N candidates."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any

from data_prep.tasks.pairwise import (
    PreferencePair,
    Preferred,
    Split,
    compared_key,
    content_id,
    known_hashes,
    meta_texts,
)
from data_prep.tasks.prompts import nway_prompt, valid_text
from data_prep.tasks.row import HasRow, Image, Row


@dataclass(frozen=True)
class RankedResponses:
    """One question and N responses, each with its rank."""

    source: str
    images: tuple[Image, ...]
    question: str
    responses: tuple[str, ...]
    ranks: tuple[float, ...]
    """1 is best; equal ranks are ties. As many as there are responses."""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def pair_id(self) -> str:
        """Content hash, as `PreferencePair.pair_id`."""
        ranks = (f"{r:g}" for r in self.ranks)
        return content_id(self.source, *(i.blake3 for i in self.images), self.question, *self.responses, *ranks)

    @property
    def judgement(self) -> tuple[str, int]:
        """As `PreferencePair.judgement`: the key, and the place of the best response among the sorted ones."""
        question = (self.question, *(image.blake3 for image in self.images))
        key, spelled = compared_key(question, [(text,) for text in self.responses])
        return key, sorted(spelled).index(spelled[self.best[0]])

    def pairs(self) -> Iterator[PreferencePair]:
        """All N(N-1)/2 pairs of responses with different texts, in the order of the source."""
        for (i, first), (j, second) in combinations(enumerate(self.responses), 2):
            if first.strip() == second.strip():
                continue
            better: Preferred = "tie" if self.ranks[i] == self.ranks[j] else int(self.ranks[j] < self.ranks[i])  # type: ignore[assignment]
            meta = {**self.meta, "ranks": [self.ranks[i], self.ranks[j]]}
            yield PreferencePair(self.source, self.images, self.question, (first, second), better, meta)

    @property
    def best(self) -> tuple[int, ...]:
        """Places, from 0, of the responses that share the best rank."""
        top = min(self.ranks)
        return tuple(i for i, rank in enumerate(self.ranks) if rank == top)


@dataclass(frozen=True)
class RankTask(HasRow):
    """Name the best of N responses, or rank them all, in one pass."""

    item: RankedResponses
    shown: tuple[int, ...]
    """The places of the responses in the order in which the prompt shows them."""
    split: Split = "train"
    index: int = 0
    ranking: bool = False
    """Whether all responses are ranked."""
    compact: bool = False
    """Whether the prompt is for a tiny model: short, and without instructions."""

    @cached_property
    def prompt(self) -> str:
        """The user turn."""
        item = self.item
        responses = (item.responses[i] for i in self.shown)
        return nway_prompt(item.question, responses, len(item.images), ranking=self.ranking, compact=self.compact)

    @property
    def ground_truth(self) -> str:
        """The number of the best response, from 1; or all numbers from the best to the worst, as `2 > 1 = 3`."""
        ranks = [self.item.ranks[i] for i in self.shown]
        if not self.ranking:
            return str(ranks.index(min(ranks)) + 1)
        places = sorted(range(len(ranks)), key=ranks.__getitem__)
        steps = [" = " if ranks[a] == ranks[b] else " > " for a, b in pairwise(places)]
        return "".join(f"{place + 1}{step}" for place, step in zip(places, [*steps, ""], strict=True))

    def flat(self, prompt_tokens: int | None = None) -> Row:
        """The row."""
        item = self.item
        source_id, meta = meta_texts({**item.meta, "ranks": [item.ranks[i] for i in self.shown]})
        return Row(
            data_source=f"critic_nway/{item.source}",
            prompt=self.prompt,
            images=item.images,
            ability="critic_nway",
            ground_truth=self.ground_truth,
            index=self.index,
            split=self.split,
            pair_id=item.pair_id,
            question=valid_text(item.question),
            responses=[valid_text(item.responses[i]) for i in self.shown],
            template="compact" if self.compact else None,
            prompt_tokens=prompt_tokens,
            image_blake3=known_hashes(item.images),
            source_id=source_id,
            meta=meta,
        )
