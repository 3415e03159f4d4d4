"""UnifiedReward-Think (CodeGoat24): judge prompts with a verdict, for answers and for generated images.

Its GRPO rows are `problem`, `solution` and `images`; its cold start (ImageGen-CoT-Reward-5K) is a conversation whose
last turn ends with the verdict in <answer> tags. The thoughts are left out.
"""

import re
from collections.abc import Iterator

from data_prep.sources.conversations import read_turns
from data_prep.sources.illustrated import image_list, image_pair
from data_prep.sources.judge_prompt import split_judge_prompt
from data_prep.sources.record import (
    Item,
    Options,
    Record,
    Reject,
    Source,
    checked_text,
    get,
    kept,
    make_pair,
    question_text,
)

_VERDICT = re.compile(
    r"(?:<answer>\s*)?(image|answer|response|video) ([12]) is better\.?\s*(?:</answer>)?", re.IGNORECASE
)
_CAPTION = "Text Caption: ["
_ANSWER = "<answer>"


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    prompt, verdict = _judged(record)
    said = _VERDICT.fullmatch(verdict.strip())
    if said is None:
        raise Reject("unknown-label", "the verdict is not 'Answer 1 is better', 'Image 2 is better' or the like")
    if said[1].lower() == "video":
        raise Reject("video", "the record compares videos; only images are converted")
    better = int(said[2]) - 1
    images = image_list(record.get("images", record.get("image")), "'images'")
    meta = kept(record, "id", "source")
    if said[1].lower() == "image":
        if len(images) != 2:
            raise Reject("image-count", f"two images are compared, and the record has {len(images)}")
        yield image_pair("unified_reward", _caption(prompt), (), (images[0], images[1]), better, meta)
        return
    if not images:
        raise Reject("image-missing", "no 'images' in the record")
    question, first, second = split_judge_prompt(prompt)
    yield make_pair("unified_reward", images, question_text(question), (first, second), better, meta)


def _judged(record: Record) -> tuple[str, str]:
    """The judge prompt and the verdict."""
    if record.get("problem") is not None:
        return checked_text(record["problem"], "'problem'"), checked_text(get(record, "solution"), "'solution'")
    turns = read_turns(get(record, "conversations"), "'conversations'")
    if [turn.speaker for turn in turns if turn.speaker != "System"] != ["User", "Assistant"]:
        raise Reject("several-turns", "the conversation is not one prompt to the judge and its verdict")
    answers = turns[-1].text.split(_ANSWER)
    if len(answers) != 2:
        raise Reject("unknown-label", f"the judge's text has {len(answers) - 1} verdicts in {_ANSWER} tags")
    return turns[-2].text, _ANSWER + answers[1]


def _caption(prompt: str) -> str:
    """The prompt that the images were made for, which ends the judge prompt in square brackets."""
    _, found, caption = prompt.rstrip().partition(_CAPTION)
    if not found or not caption.endswith("]") or _CAPTION in caption:
        raise Reject("ambiguous-prompt", f"the judge prompt does not end with one '{_CAPTION}...]'")
    return question_text(caption[:-1], "the caption")


SOURCE = Source(
    "unified_reward",
    "CodeGoat24, UnifiedReward-Think",
    convert,
    licence="MIT",
    size="see card; image parts only",
    label_rule="solution or <answer>: 'Answer 1 is better', 'Image 2 is better'",
    needs_image_root=True,
)
