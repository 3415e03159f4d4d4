"""Preference pairs from a critic's own verdicts, or from known answers: the data that the next critic learns from.

    prompts -> responses (given, or sampled from a policy) -> pairs -> both orders, K votes each -> decision

`Labeller` asks a critic. A pair becomes data only when the critic prefers the same response in both orders and enough
of all votes are for it. `Miner` asks nobody: it pairs right with wrong responses (`mining`). Every other pair keeps the
reason why not, and every prompt without a pair too: what is read is accounted for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

from data_prep.tasks.ordering import choose_template, seeded_fraction, split_of
from data_prep.tasks.pairwise import PreferencePair, content_id
from recipe.critic_r1.judging.generation import Generation, GenerationRequest, Generator, Sampling
from recipe.critic_r1.judging.pairwise import REQUEST_FAILED, SPLIT_VOTES, Judgement, JudgeTask, images_blake3, judge
from recipe.critic_r1.labeling.mining import right_against_wrong
from recipe.critic_r1.labeling.questions import LabelPrompt, LostRow
from recipe.critic_r1.selection.candidates import Shown, final_answer
from reward_fns.verdict import Parsing

Outcome = Literal[
    "labelled",
    "low_confidence",
    "inconsistent",
    "tie",
    "undecided",
    "unreadable",
    "request_failed",
    "unanswerable",
    "split_conflict",
]
"""What became of a pair:

labelled: it is data.
low_confidence: both orders agree, but too few of all votes.
inconsistent: each order prefers another response.
tie: a tie in both orders.
undecided: a tie in one order, or votes without a majority.
unreadable, request_failed: an order has no readable verdict, or no answer, for which the next run asks again.
unanswerable: a content filter withheld the verdict of an order, or the prompt is too long for the critic.
split_conflict: its images belong to different splits.
"""


@dataclass(frozen=True)
class ResponsePair:
    """Two different responses to a prompt."""

    prompt: LabelPrompt
    responses: tuple[str, str]
    times: int = 0
    """Of a mined pair: how many responses gave the wrong answer."""

    @cached_property
    def pair_id(self) -> str:
        """Equal content, equal id, whichever response is named first."""
        return content_id("pair", self.prompt.content_id, *sorted(self.responses))

    @property
    def written(self) -> tuple[str, str]:
        """The responses as the policy wrote them."""
        first, second = (self.prompt.written.get(response, response) for response in self.responses)
        return first, second

    @property
    def is_written(self) -> bool:
        """Whether the policy wrote both responses; a known answer that nobody gave is not for DPO."""
        return not self.prompt.written or all(response in self.prompt.written for response in self.responses)


@dataclass(frozen=True)
class LabelSettings:
    """How pairs are made, judged and decided.

    sampling: of a judgement; `n` is the number of votes per order.
    template, ties: of the critic's prompt; ties offers a tie as a verdict.
    verdicts, prefilled: how they are read, see `reward_fns.verdict.parse_verdict`.
    min_confidence: least share of all votes, over both orders, for the chosen response.
    max_pairs: most pairs of a prompt; of more, those of the responses given most often, then a seeded draw.
    val_share: share of the images whose pairs go to the split `val`.
    """

    sampling: Sampling = field(default_factory=Sampling)
    template: str = "critic"
    ties: bool = False
    verdicts: Parsing = "strict"
    prefilled: bool = False
    min_confidence: float = 0.75
    max_pairs: int = 6
    split: str = "train"
    val_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1 or not 0 <= self.val_share < 1:
            raise ValueError("the least confidence and the share of val are shares: from 0 to 1")
        if self.max_pairs < 1:
            raise ValueError(f"at most {self.max_pairs} pairs per prompt leaves nothing: take 1 or more")
        choose_template(self.template, "", self.seed)


@dataclass(frozen=True)
class Decision:
    """What is known about a pair.

    chosen: 0 or 1 when both orders agree, or when the answer is known; else None.
    confidence: share of all votes for the chosen one; unreadable votes and ties are votes for nobody. None of a mined
        pair.
    judgements: as listed, and swapped; none of a mined pair.
    """

    pair: ResponsePair
    outcome: Outcome
    chosen: Literal[0, 1] | None
    confidence: float | None
    split: str
    judgements: tuple[Judgement, ...]

    def votes(self) -> list[list[str | None]]:
        """The votes of both orders, `"1"` and `"2"` as the pair lists its responses."""
        return [
            [_swapped(vote) if order else vote for vote in judgement.votes]
            for order, judgement in enumerate(self.judgements)
        ]

    def record(self) -> dict[str, Any]:
        """As a line of `judged.jsonl`."""
        pair, prompt = self.pair, self.pair.prompt
        return {
            "file": prompt.file,
            "row": prompt.row,
            "id": prompt.name,
            "pair_id": pair.pair_id,
            "image_blake3": [image.blake3 for image in prompt.images],
            "question": prompt.question,
            "response_1": pair.responses[0],
            "response_2": pair.responses[1],
            "outcome": self.outcome,
            "chosen": None if self.chosen is None else self.chosen + 1,
            "confidence": self.confidence,
            "split": self.split,
            "votes": self.votes(),
            "reasons": [j.reason for j in self.judgements],
            "errors": [j.error for j in self.judgements],
            "texts": [j.text for j in self.judgements],
            **({} if self.judgements else {"answer": prompt.answer, "times": pair.times}),
        }

    def preference(self, source: str, critic: str) -> PreferencePair:
        """The labelled pair as `data_prep` knows it. Its `meta` says what the label rests on: confidence, votes and
        critic, or the known answer and how often the wrong one was given.

        Raises:
            ValueError: the pair is not labelled.
        """
        if self.outcome != "labelled" or self.chosen is None:
            raise ValueError(f"a pair that is {self.outcome} has no label")
        meta: dict[str, Any] = {"id": self.pair.prompt.name} if self.pair.prompt.name else {}
        prompt = self.pair.prompt
        if self.judgements:
            meta |= {"confidence": self.confidence, "votes": self.votes(), "critic": critic}
        else:
            meta |= {"answer": prompt.answer, "times": self.pair.times}
        meta["label_id"] = self.pair.pair_id
        return PreferencePair(source, prompt.images, prompt.question, self.pair.responses, self.chosen, meta)


@dataclass
class Tally:
    """What became of everything, by name.

    prompts: `read` is the sum of `used`, `sampling-failed`, `sampling-unanswerable` and `too-few-responses`; in mining,
        of the first three, `no-right-response` and `no-wrong-response`.
    responses: `given` and `drawn`; of these `repeated` and `empty` ones make no pair, `cut_off` ones do; `refused`
        ones are among the empty. In mining those that are not `empty` are counted as `mining.Mined` says, and
        `cut_off` ones are among the empty.
    pairs: by outcome; before judging, `duplicate` (seen in an earlier row) and `not_drawn` (beyond `max_pairs`).
    judgements: votes by how they ended, see `Generation.finish_reasons`.
    """

    prompts: Counter[str] = field(default_factory=Counter)
    responses: Counter[str] = field(default_factory=Counter)
    pairs: Counter[str] = field(default_factory=Counter)
    judgements: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, dict[str, int]]:
        """For JSON."""
        found = {
            "prompts": self.prompts,
            "responses": self.responses,
            "pairs": self.pairs,
            "judgements": self.judgements,
        }
        return {name: dict(sorted((+counts).items())) for name, counts in found.items()}


def judge_task(pair: ResponsePair, order: int, settings: LabelSettings) -> JudgeTask:
    """A pair in one order, put as the tasks of `data_prep` put it. It has no label yet, so its truth is empty."""
    prompt = pair.prompt
    first, second = reversed(pair.responses) if order else pair.responses
    template = choose_template(settings.template, pair.pair_id, settings.seed)
    text = template.render(prompt.question, first, second, n_images=len(prompt.images), ties=settings.ties)
    return JudgeTask(
        pair_id=pair.pair_id,
        order=order,
        messages=prompt.messages(text),
        question=prompt.question,
        response_1=first,
        response_2=second,
        ground_truth="",
        image_blake3=images_blake3([image.blake3 for image in prompt.images]),
    )


def decide(pair: ResponsePair, forward: Judgement, backward: Judgement, settings: LabelSettings) -> Decision:
    """What follows from the judgements of both orders; `Outcome` says the rules."""
    verdicts = (forward.pred, _swapped(backward.pred))
    votes = [*forward.votes, *map(_swapped, backward.votes)]
    split = _split(pair, settings)
    chosen: Literal[0, 1] | None = None
    confidence: float | None = None
    outcome: Outcome
    if REQUEST_FAILED in (forward.reason, backward.reason):
        outcome = "request_failed"
    elif not (forward.answered and backward.answered):
        outcome = "unanswerable"
    elif any(j.pred is None and j.reason != SPLIT_VOTES for j in (forward, backward)):
        outcome = "unreadable"
    elif verdicts == ("tie", "tie"):
        outcome = "tie"
    elif "tie" in verdicts or None in verdicts:
        outcome = "undecided"
    elif verdicts[0] != verdicts[1]:
        outcome = "inconsistent"
    else:
        chosen = 0 if verdicts[0] == "1" else 1
        confidence = votes.count(verdicts[0]) / len(votes)
        outcome = "low_confidence" if confidence < settings.min_confidence else "labelled"
        if outcome == "labelled" and split is None:
            outcome = "split_conflict"
    return Decision(pair, outcome, chosen, confidence, split or "", (forward, backward))


def _split(pair: ResponsePair, settings: LabelSettings) -> str | None:
    """None when the images belong to different splits."""
    if not settings.val_share:
        return settings.split
    keys = [image.blake3 for image in pair.prompt.images]
    return split_of(keys, seed=settings.seed, val_share=settings.val_share)


def _swapped(choice: str | None) -> str | None:
    return {"1": "2", "2": "1"}.get(choice or "", choice)


class Labeller:
    """Turns prompts into decisions and keeps count.

    Args:
        critic: who judges.
        policy: samples the responses that prompts lack.
        policy_sampling: of these; `n` responses per prompt.
        policy_prefilled: whether the policy's chat template already writes `<think>`.
        shown: of a sampled response; `answer` lets the critic compare final answers, and a text without one is empty.
        redraw: sample for every prompt, whatever responses it has.
        instruct: ask the policy for thoughts and a box, where a row does not hold the policy's prompt.
    """

    def __init__(
        self,
        critic: Generator | None,
        settings: LabelSettings,
        *,
        policy: Generator | None = None,
        policy_sampling: Sampling | None = None,
        shown: Shown = "response",
        redraw: bool = False,
        policy_prefilled: bool = False,
        instruct: bool = False,
    ) -> None:
        self.settings = settings
        self.tally = Tally()
        self.lost: list[LostRow] = []
        """Prompts that gave no pair."""
        self._critic, self._policy, self._policy_sampling = critic, policy, policy_sampling
        self._shown, self._redraw, self._prefilled, self._instruct = shown, redraw, policy_prefilled, instruct
        self._seen: set[str] = set()

    def __call__(self, prompts: Sequence[LabelPrompt]) -> list[Decision]:
        """Decisions about all pairs of some prompts: one batch to the policy, one to the critic."""
        self.tally.prompts["read"] += len(prompts)
        decisions = self._decisions([pair for prompt in self._answered(prompts) for pair in self._pairs(prompt)])
        self.tally.pairs.update(decision.outcome for decision in decisions)
        return decisions

    def _decisions(self, pairs: Sequence[ResponsePair]) -> list[Decision]:
        settings, critic = self.settings, self._critic
        if not pairs:
            return []
        if critic is None:
            raise ValueError("there is no critic to judge the pairs")
        tasks = [judge_task(pair, order, settings) for pair in pairs for order in (0, 1)]
        found = judge(critic, tasks, settings.sampling, parsing=settings.verdicts, prefilled=settings.prefilled)
        self.tally.judgements.update(reason for judgement in found for reason in judgement.finish_reasons)
        return [
            decide(pair, forward, backward, settings)
            for pair, forward, backward in zip(pairs, found[0::2], found[1::2], strict=True)
        ]

    def _answered(self, prompts: Sequence[LabelPrompt]) -> Iterator[LabelPrompt]:
        """The prompts with their responses, sampled where they have none."""
        if self._redraw:
            prompts = [replace(prompt, responses=()) for prompt in prompts]
        drawn = iter(self._draw([prompt for prompt in prompts if not prompt.responses]))
        for prompt in prompts:
            if prompt.responses:
                self.tally.responses["given"] += len(prompt.responses)
                yield prompt
            elif (answered := next(drawn)) is not None:
                yield answered

    def _draw(self, prompts: Sequence[LabelPrompt]) -> list[LabelPrompt | None]:
        if not prompts:
            return []
        if self._policy is None or self._policy_sampling is None:
            lack = prompts[0].lost("missing-field", "no responses", "Add 'responses', or sample some with --samples.")
            raise ValueError(str(lack))
        requests = [
            GenerationRequest(p.asked(instruct=self._instruct), self._policy_sampling.for_request(p.content_id))
            for p in prompts
        ]
        answered: list[LabelPrompt | None] = []
        for prompt, generation in zip(prompts, self._policy.generate(requests), strict=True):
            if generation.error is not None:
                if generation.failure == "failed":
                    self._lose(prompt, "sampling-failed", generation.error, "Run the same command again.")
                else:
                    self._lose(
                        prompt, "sampling-unanswerable", generation.error, "Shorten the prompt, or drop the row."
                    )
                answered.append(None)
                continue
            self.tally.responses["drawn"] += len(generation.texts)
            self.tally.responses["cut_off"] += generation.finish_reasons.count("length")
            self.tally.responses["refused"] += generation.finish_reasons.count("refusal")
            answered.append(self._read(prompt, generation))
        return answered

    def _read(self, prompt: LabelPrompt, generation: Generation) -> LabelPrompt:
        """The prompt with its sampled responses."""
        texts = [text.strip() for text in generation.texts]
        responses = tuple(texts)
        if self._shown == "answer":
            responses = tuple(
                final_answer(text, prefilled=self._prefilled, finished=finished) or ""
                for text, finished in zip(texts, generation.finished, strict=True)
            )
        # Of several texts with one answer the first represents it.
        return replace(prompt, responses=responses, written=dict(reversed(list(zip(responses, texts, strict=True)))))

    def _pairs(self, prompt: LabelPrompt) -> list[ResponsePair]:
        """Pairs of different responses that no earlier row had."""
        settings, tally = self.settings, self.tally
        distinct = list(dict.fromkeys(text for text in prompt.responses if text))
        tally.responses["empty"] += prompt.responses.count("")
        tally.responses["repeated"] += len(prompt.responses) - prompt.responses.count("") - len(distinct)
        if len(distinct) < 2:
            self._lose(prompt, "too-few-responses", "fewer than two different responses", "Sample more of them.")
            return []
        tally.prompts["used"] += 1
        pairs = [ResponsePair(prompt, both) for both in combinations(distinct, 2)]
        if len(pairs) > settings.max_pairs:
            tally.pairs["not_drawn"] += len(pairs) - settings.max_pairs
            kept = {pair.pair_id for pair in sorted(pairs, key=self._rank)[: settings.max_pairs]}
            pairs = [pair for pair in pairs if pair.pair_id in kept]
        return self._new(pairs)

    def _new(self, pairs: Sequence[ResponsePair]) -> list[ResponsePair]:
        """The pairs that no earlier row had."""
        new = [pair for pair in pairs if pair.pair_id not in self._seen]
        self.tally.pairs["duplicate"] += len(pairs) - len(new)
        self._seen.update(pair.pair_id for pair in new)
        return new

    def _rank(self, pair: ResponsePair) -> tuple[int, float]:
        """What was answered most often comes first: between two rare answers there is often no right one."""
        given = sum(map(pair.prompt.responses.count, pair.responses))
        return -given, seeded_fraction(self.settings.seed, "label", pair.pair_id)

    def _lose(self, prompt: LabelPrompt, reason: str, detail: str, remedy: str) -> None:
        self.tally.prompts[reason] += 1
        self.lost.append(prompt.lost(reason, detail, remedy))


class Miner(Labeller):
    """Pairs right with wrong responses by the known answers (`mining.right_against_wrong`); no critic is asked."""

    def __init__(self, settings: LabelSettings, **policy: Any) -> None:
        """
        Args:
            policy: as `Labeller` takes it: `policy`, `policy_sampling`, `shown`, ...
        """
        super().__init__(None, settings, **policy)

    def _read(self, prompt: LabelPrompt, generation: Generation) -> LabelPrompt:
        """A response that was cut off is neither right nor wrong."""
        ended = zip(generation.texts, generation.finished, strict=True)
        return replace(prompt, responses=tuple(text.strip() if finished else "" for text, finished in ended))

    def _pairs(self, prompt: LabelPrompt) -> list[ResponsePair]:
        """Each wrong answer against a right one, the most frequent wrong answer first."""
        if prompt.answer is None:
            raise ValueError(str(prompt.lost("missing-field", "the row has no answer", "Give the row an 'answer'.")))
        found = right_against_wrong(
            [text for text in prompt.responses if text], prompt.answer, shown=self._shown,
            prefilled=self._prefilled, seed=self.settings.seed, name=prompt.content_id,
        )  # fmt: skip
        self.tally.responses["empty"] += prompt.responses.count("")
        self.tally.responses.update(found.counts)
        if not found.pairs:
            lacks = "wrong" if not found.counts["wrong"] else "right"
            self._lose(prompt, f"no-{lacks}-response", f"no response is {lacks}", "Sample more of them.")
            return []
        self.tally.prompts["used"] += 1
        most = self.settings.max_pairs
        self.tally.pairs["not_drawn"] += max(0, len(found.pairs) - most)
        if self._shown == "answer":
            written = {final_answer(text, prefilled=self._prefilled) or "": text for text in reversed(prompt.responses)}
            prompt = replace(prompt, written=written)
        return self._new([ResponsePair(prompt, (p.right, p.wrong), p.times) for p in found.pairs[:most]])

    def _decisions(self, pairs: Sequence[ResponsePair]) -> list[Decision]:
        return [self._decision(pair, _split(pair, self.settings)) for pair in pairs]

    def _decision(self, pair: ResponsePair, split: str | None) -> Decision:
        return Decision(pair, "split_conflict" if split is None else "labelled", 0, None, split or "", ())
