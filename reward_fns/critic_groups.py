"""The critic's judgements as the reward of the responses to one prompt, for any trainer that sees groups.

`CriticGroups.score` shows the responses of one prompt to a `ChatJudge`, two at a time or (`pointwise`) one at a time,
and returns their rewards. A group that could not be judged (the server failed, it took too long, an image could not be
sent) gets equal scores and the reason `unjudged`; nothing raises. Where all answers are equal, only the form differs.

`critic_group_reward` makes a reward function for TRL of it:

    reward = critic_group_reward("http://localhost:8000/v1", "critic", template="critic", scheme="knock_out")
    GRPOTrainer(..., reward_funcs=[reward])
"""

import asyncio
import itertools
import logging
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from reward_fns.answer import normalise
from reward_fns.batch import text_of
from reward_fns.chat_judge import ChatJudge, QuestionJudge
from reward_fns.group import SCHEMES, GroupScores, JudgeFailedError, Orders, Scheme, group_scores, rewards
from reward_fns.verdict import find_box, unwrap

logger = logging.getLogger(__name__)

Shown = Literal["answer", "response"]
"""What the critic sees of a response: the content of its box, or all of it."""

Reference = Literal["truth", "greedy"]
"""What the scheme `margin` compares with: an answer that is known, or the policy's greedy response."""


@dataclass(frozen=True)
class JudgedGroup:
    """The rewards of a group, and what they cost.

    rewards: one per response, with the keys of `group.rewards`.
    matches: for each response its matches: `against` (a response with the other answer; -1: the reference), `share` in
        [0, 1], and the two `verdicts`, the response shown first and shown second (None: unreadable; `group.NOT_ASKED`).
        In `pointwise` instead one entry with its `score` in [0, 1] (None: unreadable).
    metrics: of `group.GroupScores.metrics`, with `unjudged` (0 or 1), `prompt_tokens`, `completion_tokens`, `seconds`.
    failure: why the group is unjudged, or "".
    """

    rewards: list[dict[str, Any]]
    matches: list[list[dict[str, Any]]]
    metrics: dict[str, float]
    failure: str = ""


@dataclass(frozen=True)
class CriticGroups:
    """How the responses of a prompt are compared; see `group.group_scores`.

    shown: what the critic sees. A response without an answer in a box scores 0 unasked with `answer`.
    reference: what `margin` compares with. With `greedy` it is a response and is shown as the others are; those with
        the same answer draw against it unasked.
    seconds: most time for one group; past it the group is unjudged.
    """

    scheme: Scheme = "knock_out"
    shown: Shown = "response"
    orders: Orders = "both"
    reference: Reference = "truth"
    neighbours: int = 2
    round_robin_up_to: int = 4
    format_weight: float = 0.1
    seconds: float = 600.0

    def __post_init__(self) -> None:
        choices = {"scheme": SCHEMES, "shown": get_args(Shown), "orders": get_args(Orders)}
        for name, known in (choices | {"reference": get_args(Reference)}).items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}: got {self}")
        if self.reference == "greedy" and self.scheme != "margin":
            raise ValueError(f"reference=greedy is for scheme=margin, not {self.scheme}")
        if not (0 <= self.format_weight <= 1 and self.seconds > 0 and self.neighbours > 0):
            raise ValueError(f"format_weight must lie in [0, 1], seconds and neighbours be positive: got {self}")

    async def score(
        self,
        critic: ChatJudge,
        question: str,
        images: Iterable[Any],
        responses: Sequence[str],
        *,
        formats: Sequence[float] | None = None,
        reference: str | None = None,
    ) -> JudgedGroup:
        """The rewards of the responses to one prompt.

        Args:
            images: of the prompt, in order, as `chat_judge.data_url` takes them; read in another thread.
            formats: 1.0 for a well-formed response, 0.0 for another; by default by `verdict.find_box`.
            reference: what each response is compared with in `margin`: an answer, or with `reference="greedy"` the
                whole greedy response.
        """
        started = time.monotonic()
        boxes = [find_box(response) for response in responses]
        answers = [None if box.content is None else unwrap(box.content) for box in boxes]
        shown = list(responses) if self.shown == "response" else [answer or "" for answer in answers]
        asked = [i for i, text in enumerate(shown) if text or self.shown == "response"]
        keys = [shown[i] if (answer := answers[i]) is None else normalise(answer) for i in asked]
        judge: QuestionJudge | None = None
        found = GroupScores([0.5] * len(asked))
        failure = ""
        try:
            answer = None
            if self.reference == "greedy":
                reference, answer = self._greedy(reference)
            judge = await asyncio.to_thread(critic.about, question, images)
            if asked:
                async with asyncio.timeout(self.seconds):
                    found = await group_scores(
                        [shown[i] for i in asked],
                        judge,
                        scheme=self.scheme,
                        orders=self.orders,
                        reference=reference,
                        reference_answer=answer,
                        score=judge.score,
                        answers=keys,
                        neighbours=self.neighbours,
                        round_robin_up_to=self.round_robin_up_to,
                        seed=zlib.crc32(question.encode("utf-8", "replace")),
                    )
            failure = found.failure
        except JudgeFailedError as error:
            failure = str(error)
        except TimeoutError:
            failure = f"no verdicts within {self.seconds:g} seconds"
        except Exception as error:  # whatever it is, it must not end the trainer's step
            failure = f"{type(error).__name__}: {error}"[:300]
        if failure:
            result = self.unjudged(responses, failure)
        else:
            scores = dict(zip(asked, found.scores, strict=True))
            group = replace(found, scores=[scores.get(i, 0.0) for i in range(len(responses))], judged=True)
            forms = [float(box.well_formed) for box in boxes] if formats is None else formats
            result = JudgedGroup(
                rewards(group, forms, format_weight=self.format_weight),
                _matches(found, keys, asked, len(responses)),
                group.metrics() | {"unjudged": 0.0},
            )
        result.metrics["prompt_tokens"] = float(judge.prompt_tokens if judge else 0)
        result.metrics["completion_tokens"] = float(judge.completion_tokens if judge else 0)
        result.metrics["seconds"] = time.monotonic() - started
        return result

    def _greedy(self, response: str | None) -> tuple[str, str]:
        """What the critic sees of the greedy response, and what makes another response equal to it."""
        box = find_box(response)
        answer = None if box.content is None else unwrap(box.content)
        shown = response if self.shown == "response" else answer
        if not (shown or "").strip():
            raise JudgeFailedError(f"the greedy response has no {self.shown} to compare with ({box.reason.value})")
        return str(shown), str(shown) if answer is None else normalise(answer)

    def unjudged(self, responses: Sequence[str], failure: str) -> JudgedGroup:
        """The rewards of a group that could not be judged: all 0, the form included."""
        logger.warning("a group of %d responses is unjudged: %s", len(responses), failure)
        group = GroupScores([0.5] * len(responses), False, failure)
        costs = dict.fromkeys(("prompt_tokens", "completion_tokens", "seconds"), 0.0)
        return JudgedGroup(
            rewards(group, [0.0] * len(responses), format_weight=self.format_weight),
            [[] for _ in responses],
            group.metrics() | {"unjudged": 1.0} | costs,
            failure,
        )


def _matches(group: GroupScores, keys: Sequence[str], asked: Sequence[int], count: int) -> list[list[dict[str, Any]]]:
    """The matches or the score of each response; players are numbered as their answers first occur."""
    players: dict[str, list[int]] = {}
    for key, i in zip(keys, asked, strict=True):
        players.setdefault(key, []).append(i)
    samples = list(players.values())
    found: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    for player, point in enumerate(group.points):
        for i in samples[player]:
            found[i].append({"score": point})
    for match in group.matches:
        sides = [(match.first, match.second, match.share, match.verdicts)]
        if match.second >= 0:
            sides.append((match.second, match.first, 1 - match.share, match.verdicts[::-1]))
        for own, other, share, verdicts in sides:
            against = samples[other][0] if other >= 0 else -1
            for i in samples[own]:
                found[i].append({"against": against, "share": share, "verdicts": list(verdicts)})
    return found


def critic_group_reward(url: str, model: str, **options: Any) -> Callable[..., list[float]]:
    """A reward function for TRL: prompts and completions as lists, the completions of a prompt next to each other.

    A batch on one process should hold whole groups (`per_device_train_batch_size` a multiple of `num_generations`).
    Images are read from the column `images` (a list for each row) or `image`. The scheme `margin` compares with the
    column `ground_truth`, which may hold greedy answers that were generated before.

    Args:
        options: of `CriticGroups` and of `ChatJudge`.

    Raises:
        TypeError, ValueError: an unknown option, or one that is out of range.
    """
    own = {name: options.pop(name) for name in list(options) if name in CriticGroups.__dataclass_fields__}
    groups = CriticGroups(**own)
    if groups.reference == "greedy":
        raise ValueError(
            "reference=greedy needs a server of the policy, and TRL names none to a reward function: generate the "
            "greedy answers before training, and give them in the column ground_truth with reference=truth"
        )
    ChatJudge(url, model, **options)

    async def score_all(prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]) -> list[float]:
        async with ChatJudge(url, model, **options) as critic:
            runs = [list(run) for _, run in itertools.groupby(range(len(prompts)), key=lambda i: repr(prompts[i]))]
            asked = []
            for run in runs:
                row = {name: columns[name][run[0]] for name in ("images", "image", "ground_truth") if name in columns}
                images = row.get("images") or ([row["image"]] if row.get("image") is not None else [])
                responses = [str(text_of(completions[i])) for i in run]
                reference = row.get("ground_truth")
                asked.append(groups.score(critic, question_of(prompts[run[0]]), images, responses, reference=reference))
            judged = await asyncio.gather(*asked)
        return [float(reward["score"]) for group in judged for reward in group.rewards]

    def critic_group(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """A score in [0, 1] for each completion."""
        with ThreadPoolExecutor(1) as thread:  # the caller may have a running event loop
            return thread.submit(lambda: asyncio.run(score_all(prompts, completions, columns))).result()

    return critic_group


def question_of(prompt: Any) -> str:
    """The text of a prompt's user turns, without its images: a string, or chat messages."""
    if isinstance(prompt, str):
        return prompt.replace("<image>", "").strip()
    texts = []
    for message in prompt:
        if message.get("role", "user") == "user":
            content = message["content"]
            parts = [{"text": content}] if isinstance(content, str) else content
            texts.append("".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping)))
    return "\n".join(texts).replace("<image>", "").strip()
