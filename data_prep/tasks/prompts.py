"""Every prompt text: the templates, the instruction to think and box, and the neutralising of free text.

Questions and responses are written by strangers and by models. Three readers can be tricked by them: verl splits a
prompt on the literal markers of images, the tokenizer turns the text of a special token into that token, and a judge
that quotes a response can end up with two boxed verdicts. `neutralise` disarms all of these while the text stays
readable; the row keeps the original in `extra_info`.

The templates are our own, in the form that LLaVA-Critic describes in its model card: a fair judge, the question, the
two responses. Several exist so that a critic does not learn one sentence by heart.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from string import Formatter

MARKER = "<image>"
"""verl replaces each of these by one image; a prompt holds exactly as many as the row has images."""

TAG_NAMES = (
    "image", "images", "img", "video", "audio", "think", "thinking", "answer", "tool_call", "tool_response", "s", "bos",
    "eos", "pad", "unk", "mask", "start_of_turn", "end_of_turn", "start_of_image", "end_of_image", "image_soft_token",
)  # fmt: skip
"""Names that act as image markers, as thinking or answer tags, or as special tokens of common tokenizers."""

LONGEST_SPECIAL = 64
"""Characters between `<|` and `|>`; longer runs are ordinary text to every tokenizer we know, and the bound keeps the
search linear."""

_BOX = re.compile(r"\\+(?=f?box)", re.IGNORECASE)
_TAGS = re.compile(
    r"<(/?(?:" + "|".join(TAG_NAMES) + rf")/?|[|｜][^<>‹›|｜\s]{{1,{LONGEST_SPECIAL}}}[|｜])>|\[(/?INST)\]",
    re.IGNORECASE,
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def valid_text(text: str) -> str:
    """`text` with lone surrogates replaced by U+FFFD, since neither Arrow nor a tokenizer accepts them."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _tame(match: re.Match[str]) -> str:
    tag, instruction = match.groups()
    return f"‹{tag}›" if tag else f"({instruction})"


def neutralise(text: str, special_tokens: Iterable[str] = ()) -> str:
    r"""Free text that can trick neither verl's splitter, nor a tokenizer, nor a quoting judge.

    `<image>` becomes `‹image›`, `<|im_end|>` becomes `‹|im_end|›`, `\boxed{2}` becomes `boxed{2}`; lone surrogates
    become U+FFFD. Applying it twice changes nothing more. Time is linear in the length of the text.

    Args:
        text: a question or a response.
        special_tokens: further literal strings to break, such as the added tokens of a tokenizer; a space is put after
            their first character.

    >>> print(neutralise(r"<image> says \boxed{2}<|im_end|>"))
    ‹image› says boxed{2}‹|im_end|›
    """
    text = valid_text(text)
    if "\\" in text:
        # All backslashes go: dropping one of two would build the very command that is to be broken. This comes before
        # the tags, because a box may be inside one.
        text = _BOX.sub("", text)
    if "<" in text or "[" in text:
        text = _TAGS.sub(_tame, text)
    for token in special_tokens:
        if len(token) > 1 and token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def without_markers(text: str) -> str:
    """The text without the image markers at its start and end, which only announce the images."""
    if MARKER not in text:
        return text.strip()
    while True:
        shorter = text.strip().removeprefix(MARKER).removesuffix(MARKER).strip()
        if shorter == text:
            return text
        text = shorter


def placed(text: str, n_images: int, *, before: bool = False) -> str:
    """Neutralised text with its own images, where its markers are; without markers, after the text or `before` it.

    Raises:
        ValueError: the text has markers, and not one for each image.
    """
    pieces = text.split(MARKER) if n_images else [text]
    if len(pieces) == n_images + 1:
        return MARKER.join(map(neutralise, pieces))
    if len(pieces) > 1:
        raise ValueError(f"the text has {len(pieces) - 1} {MARKER} markers for {n_images} images")
    parts = (MARKER * n_images, neutralise(text))
    return "\n".join(part for part in (parts if before else parts[::-1]) if part)


def _think_and_box(about: str) -> str:
    return (
        f"Before you decide, reason freely about {about}, as if talking to yourself. Put all of this reasoning between"
        " <think> and </think>. After </think>, give your verdict and nothing else: \\boxed{1} if Response 1 is better,"
        " \\boxed{2} if Response 2 is better"
    )


THINK_AND_BOX = _think_and_box("what the picture shows and how well each response fits it")
"""The think-then-box instruction of the paper, in our words."""


@dataclass(frozen=True)
class PromptTemplate:
    """One way to ask for a verdict."""

    name: str
    text: str
    """Text with `{images}`, `{question}`, `{response_1}` and `{response_2}`, each once."""
    suffix: bool = True
    """Whether the think-and-box instruction follows."""
    instruction: str = THINK_AND_BOX

    @cached_property
    def _parts(self) -> tuple[list[str], dict[str, int]]:
        """The parts of the template, with the instruction at the end, and the places of the fields among them."""
        parts: list[str] = []
        places: dict[str, int] = {}
        for literal, name, _, _ in Formatter().parse(self.text):
            parts.append(literal)
            if name:
                places[name] = len(parts)
                parts.append("")
        return [*parts, f"\n\n{self.instruction}" if self.suffix else ""], places

    def render(
        self,
        question: str,
        response_1: str,
        response_2: str,
        *,
        n_images: int = 1,
        ties: bool = False,
        response_images: tuple[int, int] = (0, 0),
    ) -> str:
        """The user turn. Free text is neutralised here, so the only markers in it are those of the images.

        The question's images come first. Several of them stay where the question has their markers, if it has one for
        each. Where responses hold images, every image is in the text that it belongs to. Full templates speak of one
        picture; a pair without images, or with images in its responses, is put in words of its own instead.

        Args:
            n_images: images of the question.
            ties: whether the instruction offers `\\boxed{tie}` as a third verdict.
            response_images: images of each response.

        Raises:
            ValueError: a response has markers, and not one for each of its images.
        """
        own, places = self._of_kind(n_images, response_images)._parts
        parts = own.copy()
        inside = any(response_images) or (n_images > 1 and question.count(MARKER) == n_images)
        if inside and question.count(MARKER) != n_images:
            question = without_markers(question).replace(MARKER, neutralise(MARKER))
        parts[places["images"]] = "" if inside else MARKER * n_images
        parts[places["question"]] = placed(question, n_images, before=True) if inside else neutralise(question)
        parts[places["response_1"]] = placed(response_1, response_images[0])
        parts[places["response_2"]] = placed(response_2, response_images[1])
        if self.suffix:
            parts.append(", \\boxed{tie} if neither is better." if ties else ".")
        text = "".join(parts)
        return text.lstrip("\n") if inside or not n_images else text

    def _of_kind(self, n_images: int, response_images: tuple[int, int]) -> "PromptTemplate":
        if not self.suffix:
            return self
        if n_images and not any(response_images):
            return self
        kind = _ILLUSTRATED if any(response_images) else _TEXT_ONLY
        return kind if self.instruction == THINK_AND_BOX else _with_instruction(kind, self.instruction)


@lru_cache
def _with_instruction(kind: PromptTemplate, instruction: str) -> PromptTemplate:
    """A kind of pair in its own words, with the instruction of another template."""
    return replace(kind, instruction=instruction)


_SCORES = (
    "Scores: Response 1: a number from 0 to 10, Response 2: a number from 0 to 10\n"
    "The difference of the scores is your verdict. After </think>, give it and nothing else: \\boxed{1} if Response 1"
    " is better, \\boxed{2} if Response 2 is better"
)

CHAINS = {
    "grounded": "Put all of your reasoning between <think> and </think>, in five parts, each headed at the start of a"
    " line:\n"
    "Observations: what there is to see or to know, before you look at the responses\n"
    "Claims: what each response claims\n"
    "Verification: each claim checked against the observations\n"
    "Evaluation: what follows for each response\n" + _SCORES,
    "rubric": "Put all of your reasoning between <think> and </think>, in three parts, each headed at the start of a"
    " line:\n"
    "Rubric: the criteria that a good response to this question meets, each with its weight, before you compare\n"
    "Evaluation: how far each response meets each criterion\n" + _SCORES,
    "scores": "Put all of your reasoning between <think> and </think>: reason freely about how well each response"
    " answers the question, then end with this line:\n" + _SCORES,
}
"""Instructions for thoughts that end with a score for each response; `reward_fns.grounded` reads them, and names the
paper of each."""

_BLOCKS = "Question:\n{question}\n\nResponse 1:\n{response_1}\n\nResponse 2:\n{response_2}"

_FULL = {
    "critic": "You are an impartial judge of answers that vision-language models give about pictures. Below are a"
    " question about the picture and two responses to it. Decide which response is better: it must agree with what the"
    " picture really shows, answer the question, and leave nothing important out. Neither the order of the responses"
    " nor their length should sway you.\n\n" + _BLOCKS,
    "faithful": "Two assistants looked at this picture and answered the same question. Compare their responses against"
    " the picture, claim by claim, and find the one that can be trusted more.\n\n" + _BLOCKS,
    "grader": "Act as a careful grader. Read the question, study the picture, and judge the two responses on"
    " correctness first, then on completeness, then on clarity.\n\n" + _BLOCKS + "\n\nWhich response earns the higher"
    " grade?",
    "short": _BLOCKS + "\n\nLooking at the picture, which of the two responses is the better one?",
    "reader": "Someone asked about this picture and received two responses. Think of the person who asked: which"
    " response would serve them better, given what is truly visible?\n\n" + _BLOCKS,
    "errors": "Look for mistakes. For each of the two responses below, check whether it states something the picture"
    " contradicts, invents things, reasons wrongly, or misses the point of the question. Prefer the one with fewer and"
    " lesser mistakes.\n\n" + _BLOCKS,
    "referee": "Be the referee between two vision-language models. Both were shown this picture and the question below."
    " Award the round to the response that an honest expert with the picture at hand would sign.\n\n" + _BLOCKS,
    "solve": "First work out your own answer to the question from the picture alone. Then hold the two responses"
    " against it and say which of them comes closer, in its result and in the way it gets there.\n\n" + _BLOCKS,
    "blind": _BLOCKS + "\n\nYou do not know who wrote these responses, and it does not matter. Weigh only what they say"
    " against what can be seen, and pick the one that does more justice to the question.",
    "editor": "An editor has room for one of two responses to a reader's question about this picture. Which one should"
    " be printed? A false statement weighs more than a missing detail, and fine words weigh nothing.\n\n" + _BLOCKS,
    "evidence": "For every statement in the two responses, ask where in the picture the evidence for it is. The better"
    " response rests on more evidence, guesses less, and still gives what was asked for.\n\n" + _BLOCKS,
    "pairwise": "Below: a question about the picture, and two candidate responses. State which candidate is preferable"
    " overall, taking accuracy, relevance and helpfulness together.\n\n" + _BLOCKS,
}
"""Name -> the text after the images, in templates that end with the think-and-box instruction."""

_TEXT_ONLY = PromptTemplate(
    "text_only",
    "{images}\nYou are an impartial judge of answers that language models give. Below are a question and two responses"
    " to it. Decide which response is better: it must be true, answer the question, and leave nothing important out."
    " Neither the order of the responses nor their length should sway you.\n\n" + _BLOCKS,
    instruction=_think_and_box("what the question asks and how well each response answers it"),
)

_ILLUSTRATED = PromptTemplate(
    "illustrated",
    "{images}\nYou are an impartial judge of what multimodal models make. Below are a request, which may come with"
    " pictures, and two responses to it, which may hold pictures and text; every picture is shown in the part that it"
    " belongs to. Decide which response is better: it must do what was asked, respect the pictures that came with the"
    " request, be right in what it says, and be well made. Neither the order of the responses nor their length should"
    " sway you.\n\n" + _BLOCKS,
    instruction=_think_and_box("what was asked and how well the pictures and the text of each response meet it"),
)

TEMPLATES: dict[str, PromptTemplate] = {
    **{name: PromptTemplate(name, "{images}\n" + text) for name, text in _FULL.items()},
    **{name: PromptTemplate(name, "{images}\n" + _FULL["critic"], instruction=text) for name, text in CHAINS.items()},
    "compact": PromptTemplate(
        "compact",
        "{images}{question}\nResponse 1: {response_1}\nResponse 2: {response_2}\nWhich response is right?",
        suffix=False,
    ),
}
"""All templates by name. `compact` is for tiny models: short, and without the suffix."""

DRAWN = tuple(name for name, w in TEMPLATES.items() if w.suffix and w.instruction == THINK_AND_BOX)
"""The templates that a seeded draw chooses from."""


def get_template(name: str) -> PromptTemplate:
    """The template called `name`.

    Raises:
        ValueError: no template has this name; the message lists those that exist.
    """
    try:
        return TEMPLATES[name]
    except KeyError:
        raise ValueError(f"there is no template '{name}'; choose one of: {', '.join(TEMPLATES)}") from None


THINK_THEN_ANSWER = (
    "First reason about the question and what the picture shows, as if talking to yourself. Put all of this reasoning"
    " between <think> and </think>. After </think>, give the final answer and nothing else, inside \\boxed{}."
)
"""The paper's instruction for questions to the policy, in our words; it comes after a benchmark's own prompt."""


def policy_prompt(question: str, n_images: int) -> str:
    """A plain question after its image markers, without any instruction about the form of the answer."""
    return MARKER * n_images + neutralise(question)


def score_prompt(question: str, response: str, n_images: int, lowest: float, highest: float) -> str:
    """The user turn that asks for a score of one response, from `lowest` to `highest`; free text is neutralised."""
    about = _ABOUT[n_images > 0]
    text = (
        f"{MARKER * n_images}\nYou are an impartial judge of answers that {about['given']}. Score the response below:"
        f" does it {about['right']}, answer the question, and leave nothing important out?\n\nQuestion:\n"
        f"{neutralise(question)}\n\nResponse:\n{neutralise(response)}\n\n"
        f"Before you decide, reason freely about what {about['shown']} and how well the response fits it. Put all of"
        " this reasoning between <think> and </think>. After </think>, give the score and nothing else, as"
        f" \\boxed{{number}}, from {lowest:g} (worst) to {highest:g} (best)."
    )
    return text.lstrip("\n")


def nway_prompt(
    question: str, responses: Iterable[str], n_images: int, *, ranking: bool = False, compact: bool = False
) -> str:
    """The user turn that asks for the best of several responses, in the order given; free text is neutralised.

    Args:
        ranking: ask for a ranking of all of them instead.
        compact: as the template `compact`, without instructions.

    Raises:
        ValueError: a compact ranking, which no prompt asks for.
    """
    if compact and ranking:
        raise ValueError("a ranking needs the full prompt: leave out compact")
    if compact:
        lines = "".join(f"\nResponse {place}: {neutralise(response)}" for place, response in enumerate(responses, 1))
        return f"{MARKER * n_images}{neutralise(question)}{lines}\nWhich response is right?"
    about = _ABOUT[n_images > 0]
    blocks = "\n\n".join(f"Response {place}:\n{neutralise(response)}" for place, response in enumerate(responses, 1))
    asked, rule, verdict = (
        (
            "Rank the responses below from the best to the worst",
            "a good one must",
            "the numbers of all responses from the best to the worst, with = between equally good ones, and nothing"
            " else, such as \\boxed{2 > 1 = 3}",
        )
        if ranking
        else (
            "Find the best of the responses below",
            "it must",
            "the number of the best response and nothing else, as \\boxed{number}",
        )
    )
    text = (
        f"{MARKER * n_images}\nYou are an impartial judge of answers that {about['given']}. {asked}: {rule}"
        f" {about['right']}, answer the question, and leave nothing important out.\n\n"
        f"Question:\n{neutralise(question)}\n\n{blocks}\n\n"
        f"Before you decide, reason freely between <think> and </think>. After </think>, give {verdict}."
    )
    return text.lstrip("\n")


_ABOUT = {
    True: {
        "given": "vision-language models give about pictures",
        "right": "agree with what the picture really shows",
        "shown": "the picture shows",
    },
    False: {"given": "language models give", "right": "be true", "shown": "the question asks"},
}
"""Words of these prompts, with and without images."""
