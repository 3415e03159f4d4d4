r"""The rewards for Python code and for TRL: one response or a list, texts or chat messages.

    >>> from reward_fns import preference_reward
    >>> right, wrong = r"<think>It invents a dog.</think>\boxed{1}", r"<think>Hm.</think>\boxed{2}"
    >>> preference_reward(right, "1")
    1.0
    >>> preference_reward([right, wrong], ["1", "1"])
    [1.0, 0.1]
    >>> preference_reward("Response 1 is better.", "1", parsing="lenient")
    0.9
    >>> preference_reward.details(wrong, "1")["pred"]
    '2'

With TRL, the data set has a column `ground_truth`, and options are set beforehand:

    GRPOTrainer(..., reward_funcs=[preference_reward.with_options(tie_credit=0.3)])
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, overload

from reward_fns import answer, mixed, nway, pointwise, preference

Response = str | Sequence[Mapping[str, Any]]
"""A text, or the messages of a completion; the last one is scored."""


class Reward:
    """A reward function. Safe to share between threads and to pickle.

    name: a module of this package with `compute_score`; its keyword arguments are the options.
    """

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.options = options
        self.__name__ = f"{name}_reward"  # TRL logs a reward under this
        self._compute = _MODULES[name].compute_score
        known = inspect.signature(self._compute).parameters.values()
        self._known = {one.name for one in known if one.kind is inspect.Parameter.KEYWORD_ONLY}
        if name == "mixed":
            self._known |= set(mixed.REWARDS)
        if unknown := sorted(set(options) - self._known):
            raise TypeError(
                f"{self.__name__} has no option {unknown[0]!r}; its options: {', '.join(sorted(self._known))}"
            )

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"Reward({self.name!r}{options})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.name, self.options)

    def with_options(self, **options: Any) -> "Reward":
        """The same reward with other options.

        >>> preference_reward.with_options(tie_credit=0.3)
        Reward('preference', tie_credit=0.3)
        """
        return Reward(self.name, **{**self.options, **options})

    def details(self, response: Response, ground_truth: str, *, data_source: str = "") -> dict[str, Any]:
        """Score one response; the dictionary of `compute_score`, with the reason and the parts of the score."""
        found: dict[str, Any] = self._compute(data_source, text_of(response), ground_truth, None, **self.options)
        return found

    @overload
    def __call__(self, completions: str | Sequence[Mapping[str, Any]], ground_truth: str, **columns: Any) -> float: ...
    @overload
    def __call__(
        self,
        completions: Sequence[str] | Sequence[Sequence[Mapping[str, Any]]],
        ground_truth: Sequence[str] | str,
        **columns: Any,
    ) -> list[float]: ...
    def __call__(self, completions: Any, ground_truth: Any, **columns: Any) -> float | list[float]:
        """Score one response, or a list of them.

        Args:
            completions: a text, the messages of one completion, or a list of either.
            ground_truth: the label, or one for each response.
            columns: options of the reward, and the lists and objects that TRL passes besides (`prompts`, the columns of
                the data set, ...). Of these, `mixed_reward` uses `data_source`; the others are ignored.

        Returns:
            the score in [0, 1], or a list of scores.

        Raises:
            ValueError: the lists differ in length, or an option is out of range.
            TypeError: the reward has no such option.
        """
        options = {
            name: value
            for name, value in columns.items()
            if name != "data_source" and isinstance(value, str | int | float | Mapping)
        }
        reward = self.with_options(**options) if options else self
        source = columns.get("data_source", "")
        if isinstance(completions, str) or (completions and isinstance(completions[0], Mapping)):
            return float(reward.details(completions, ground_truth, data_source=source)["score"])
        count = len(completions)
        truths = [ground_truth] * count if isinstance(ground_truth, str) else ground_truth
        sources = [source] * count if isinstance(source, str) else source
        for name, values in (("ground_truth", truths), ("data_source", sources)):
            if len(values) != count:
                raise ValueError(f"{count} responses need {count} values of {name}, not {len(values)}")
        return [
            float(reward.details(response, truth, data_source=one)["score"])
            for response, truth, one in zip(completions, truths, sources, strict=True)
        ]


def text_of(response: Response) -> Any:
    """The text of a response. Thoughts that a chat parser has moved into a field of their own get their tags back.

    >>> text_of([{"role": "assistant", "reasoning_content": "Hm.", "content": [{"type": "text", "text": "So."}]}])
    '<think>Hm.</think>So.'
    """
    if isinstance(response, str) or not isinstance(response, Sequence) or not response:
        return response
    message = response[-1]
    if not isinstance(message, Mapping):
        return response
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    thoughts = message.get("reasoning_content") or message.get("reasoning") or message.get("thinking")
    return f"<think>{thoughts}</think>{content or ''}" if thoughts else content


_MODULES = {
    "preference": preference,
    "pointwise": pointwise,
    "nway": nway,
    "answer": answer,
    "mixed": mixed,
}


def _rebuild(name: str, options: dict[str, Any]) -> Reward:
    return Reward(name, **options)


preference_reward = Reward("preference")
pointwise_reward = Reward("pointwise")
nway_reward = Reward("nway")
answer_reward = Reward("answer")
mixed_reward = Reward("mixed")
