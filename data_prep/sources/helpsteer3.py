"""nvidia/HelpSteer3, the preference part: two responses to a conversation without images.

`overall_preference` goes from -3 (the first is much better) to 3 (the second is); 0 is a tie.
"""

from collections.abc import Iterator

from data_prep.sources.conversations import question_of, read_turns
from data_prep.sources.record import Item, Options, Record, Reject, Source, get, kept, make_pair, number, text


def convert(record: Record, options: Options) -> Iterator[Item]:
    """One pair."""
    preference = number(get(record, "overall_preference"), "'overall_preference'")
    if not -3 <= preference <= 3:
        raise Reject("bad-rating", f"'overall_preference' is {preference:g}, outside -3 to 3")
    yield make_pair(
        "helpsteer3",
        (),
        question_of(read_turns(get(record, "context"), "'context'"), "'context'"),
        (text(record, "response1"), text(record, "response2")),
        "tie" if preference == 0 else int(preference > 0),
        {**kept(record, "id", "domain", "language"), "preference": preference},
    )


SOURCE = Source(
    "helpsteer3",
    "nvidia/HelpSteer3",
    convert,
    licence="CC BY 4.0",
    size="40k pairs without images",
    label_rule="overall_preference: below 0 = the first, above = the second, 0 = tie",
)
