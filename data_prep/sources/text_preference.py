"""Skywork-Reward-Preference, UltraFeedback binarized and sets like them: two conversations without images.

`chosen` and `rejected` are lists of turns that differ in the last one.
"""

from collections.abc import Iterator

from data_prep.sources.conversations import fork, question_of, read_turns
from data_prep.sources.record import Item, Options, Record, Reject, Source, get, kept, make_pair, number


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair; equal scores make a tie."""
    better, worse = (read_turns(get(record, name), f"'{name}'") for name in ("chosen", "rejected"))
    turns, (one, two) = fork([], better, worse)
    if record.get("images") or record.get("image") or any(turn.images for turn in (*better, *worse)):
        raise Reject("image-count", "the record has images, which this source leaves out", "Use generic.")
    scores = [record.get(f"score_{name}") for name in ("chosen", "rejected")]
    tie = None not in scores and number(scores[0], "'score_chosen'") == number(scores[1], "'score_rejected'")
    meta = kept(record, "id", "prompt_id", "source", "score_chosen", "score_rejected")
    yield make_pair("text_preference", (), question_of(turns), (one.text, two.text), "tie" if tie else 0, meta)


SOURCE = Source(
    "text_preference",
    "Skywork-Reward-Preference, UltraFeedback binarized",
    convert,
    licence="that of the set",
    size="any, without images",
    label_rule="chosen; equal score_chosen and score_rejected = tie",
)
