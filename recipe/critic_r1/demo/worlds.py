"""The worlds of the demo: what their images show, and what can be asked and answered about it.

A world is a published set of small images with questions. What an image shows has a name, which thoughts say ("I see a
7."); the answer to every question follows from it. Critic pairs are made of judged questions only, so the policy can be
measured on others as well.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from data_prep.sources import digits, easy_vqa
from data_prep.tasks.nway import RankedResponses
from data_prep.tasks.ordering import seeded_fraction
from data_prep.tasks.pairwise import Image, PolicyTask, PreferencePair, Split
from recipe.critic_r1.demo import WorldName


@dataclass(frozen=True)
class Item:
    """A question about an image."""

    id: int
    image: Image
    seen: str
    """What the image shows."""
    question: str
    answer: str
    kind: str = ""
    """Of the question, where a world has several."""


class World(ABC):
    """A set of images with questions about them."""

    source: str
    seen: Sequence[str]
    """Everything that an image can show."""
    sizes: Mapping[str, int]
    """Images of each split."""
    most_responses = 10
    """Different answers to every judged question."""

    @abstractmethod
    def split(self, seed: int) -> dict[str, list[Item]]:
        """Items by `warm_start`, `rl`, `test` and, where a world has questions that are not judged, `unjudged`.

        Splits share no image, except that unjudged questions are about the images of `test`. An image without a
        fitting question is left out; the manifest of the demo's data has the number of items beside that of images.

        Raises:
            ImportError: the package of the set is not installed.
        """

    @abstractmethod
    def ask(self, rng: random.Random, seen: str, *, judged: bool) -> str:
        """A question that fits what is seen.

        Args:
            judged: whether it must be of a kind that critic pairs are made of.
        """

    @abstractmethod
    def answer(self, question: str, seen: str) -> str:
        """The answer of who sees `seen`."""

    @abstractmethod
    def answers(self, question: str) -> Sequence[str]:
        """All plausible answers to a question, in a fixed order."""

    @abstractmethod
    def examples(self) -> Iterator[tuple[str, str, tuple[str, str]]]:
        """What is seen, a question and two responses, in all combinations: the texts that the tokenizer learns."""

    def wrong(self, rng: random.Random, question: str, right: str, n: int, known: Sequence[str] = ()) -> list[str]:
        """`n` different wrong answers: drawn from the `known` ones, then from the other plausible ones."""
        found: list[str] = []
        for _ in range(n):
            left = [answer for answer in known if answer not in found]
            found.append(rng.choice(left or [a for a in self.answers(question) if a not in (right, *found)]))
        return found

    def pair(self, item: Item, wrong: str) -> PreferencePair:
        """The right answer, which is preferred, and a wrong one.

        Raises:
            ValueError: `wrong` is no plausible wrong answer.
        """
        if wrong == item.answer or wrong not in self.answers(item.question):
            raise ValueError(f"item {item.id}: {wrong!r} is not a wrong answer to {item.question!r}")
        return PreferencePair(self.source, (item.image,), item.question, (item.answer, wrong), 0, {"id": item.id})

    def ranked(self, item: Item, wrong: Sequence[str]) -> RankedResponses:
        """The right answer, which is best, and several wrong ones."""
        ranks = (1.0, *(2.0 for _ in wrong))
        return RankedResponses(self.source, (item.image,), item.question, (item.answer, *wrong), ranks, {"id": item.id})

    def policy_task(self, item: Item, number: int, *, split: Split = "test", judged: bool = True) -> PolicyTask:
        """The question itself; `number` is its place among those of the file."""
        source = self.source if judged else f"{self.source}_unjudged"
        return PolicyTask(source, (item.image,), item.question, item.answer, split, number, item.kind)


class Digits(World):
    """Handwritten digits and one question: which digit is shown."""

    source = digits.SOURCE
    seen = tuple("0123456789")
    # Two of each digit for the warm start: with four the base already judged 83 % of the hard pairs right.
    sizes = MappingProxyType({"n_warm_start": 20, "n_rl": 1000, "n_test": 400})

    def split(self, seed: int) -> dict[str, list[Item]]:
        return {name: self.items(part) for name, part in digits.digit_split(seed, **self.sizes).items()}

    def items(self, indices: Sequence[int]) -> list[Item]:
        """The question about each image, by its place in the set."""
        images = [digits.load_digit_images()[i] for i in indices]
        return [Item(i.index, i.image, str(i.label), digits.QUESTION, str(i.label)) for i in images]

    def ask(self, rng: random.Random, seen: str, *, judged: bool) -> str:
        return digits.QUESTION

    def answer(self, question: str, seen: str) -> str:
        return seen

    def answers(self, question: str) -> Sequence[str]:
        return self.seen

    def examples(self) -> Iterator[tuple[str, str, tuple[str, str]]]:
        for first in self.seen:
            for second in self.seen:
                yield first, digits.QUESTION, (first, second)


class EasyVqa(World):
    """Coloured shapes and questions about shape and colour; judged are those for a shape, and whether one is there."""

    source = easy_vqa.SOURCE
    seen = tuple(f"{seen.color} {seen.shape}" for seen in easy_vqa.ALL_SEEN)
    sizes = MappingProxyType({"n_warm_start": 72, "n_rl": 1000, "n_test": 400})
    most_responses = 2  # yes and no
    _shows = MappingProxyType(dict(zip(seen, easy_vqa.ALL_SEEN, strict=True)))
    judged: tuple[easy_vqa.Kind, ...] = ("shape", "shape_there")

    def split(self, seed: int) -> dict[str, list[Item]]:
        images = easy_vqa.easy_split(seed, **self.sizes)
        unjudged = tuple(kind for kind in easy_vqa.KINDS if kind not in self.judged)
        asked = {
            "warm_start": (images["warm_start"], easy_vqa.KINDS),
            "rl": (images["rl"], self.judged),
            "test": (images["test"], self.judged),
            "unjudged": (images["test"], unjudged),
        }
        return {
            name: [item for image in part if (item := self._item(seed, image, kinds))]
            for name, (part, kinds) in asked.items()
        }

    def _item(self, seed: int, image: easy_vqa.EasyImage, kinds: Sequence[easy_vqa.Kind]) -> Item | None:
        """One of the set's questions about the image; every kind that it has is as likely."""
        by_kind: dict[str, list[str]] = {}
        for question in image.questions:
            if (kind := easy_vqa.kind_of(question)) in kinds:
                by_kind.setdefault(kind, []).append(question)
        if not by_kind:
            return None
        chance = seeded_fraction(seed, "ask", image.part, image.index, *kinds)
        chosen = sorted(by_kind)[int(chance * len(by_kind))]
        question = by_kind[chosen][int(chance * 1000) % len(by_kind[chosen])]
        seen = image.seen
        return Item(image.index, image.image, f"{seen.color} {seen.shape}", question, seen.answer(question), chosen)

    def ask(self, rng: random.Random, seen: str, *, judged: bool) -> str:
        # Kinds and answers are as likely as each other, so that nothing is learnt from how often the set asks.
        kind = rng.choice(self.judged if judged else easy_vqa.KINDS)
        return rng.choice(rng.choice(self._fitting(seen, kind)))

    @lru_cache(maxsize=256)  # noqa: B019  (worlds live as long as the process)
    def _fitting(self, seen: str, kind: easy_vqa.Kind) -> list[list[str]]:
        """The questions of a kind that fit what is seen, by their answers."""
        shows, by_answer = self._shows[seen], dict[str, list[str]]()
        for question in easy_vqa.questions():
            answer = shows.answer(question)
            if easy_vqa.kind_of(question) == kind and shows.allows(question, answer):
                by_answer.setdefault(answer, []).append(question)
        return list(by_answer.values())

    def answer(self, question: str, seen: str) -> str:
        return self._shows[seen].answer(question)

    def answers(self, question: str) -> Sequence[str]:
        kind = easy_vqa.kind_of(question)
        return {"shape": easy_vqa.SHAPES, "color": easy_vqa.COLORS}.get(kind, ("yes", "no"))

    def examples(self) -> Iterator[tuple[str, str, tuple[str, str]]]:
        for seen, shows in self._shows.items():
            for question in easy_vqa.questions():
                right = shows.answer(question)
                for wrong in self.answers(question):
                    yield seen, question, (right, wrong)


DIGITS = Digits()

WORLDS: dict[WorldName, World] = {"digits": DIGITS, "easy_vqa": EasyVqa()}
