"""Why a record, or one pair of it, cannot become a task."""

from typing import Any


class Reject(Exception):
    """Raised for a record; also yielded by a source in place of a pair that it leaves out of a record."""

    def __init__(self, reason: str, detail: str, remedy: str = "Look at the record in rejected.jsonl.") -> None:
        """
        Args:
            reason: short code, for counting.
            detail: what is wrong, with the offending value.
            remedy: what the user can do.
        """
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.remedy = remedy


def shown_value(value: Any) -> str:
    """A value in an error message: a plain one cut to 60 characters, any other by its type."""
    plain = value is None or isinstance(value, str | int | float)
    return repr(str(value)[:60]) if plain else f"a {type(value).__name__}"


def same_responses(detail: str = "both responses are the same text") -> Reject:
    """Nobody can prefer one of two equal texts."""
    return Reject("same-responses", detail, "Nothing to learn from; leave it out.")


def repeated() -> Reject:
    """For a pair that an earlier record, or the same one, already gave."""
    detail = "an earlier record has the same images, question, responses and label"
    return Reject("duplicate", detail, "Nothing to do; the first one is kept.")


def no_twin() -> Reject:
    """For a twin that cannot be made; its pair is used."""
    detail = "no pair shortly before this one has other images that neither response can be about"
    return Reject("twin-without-image", detail, "Nothing to do; the pair is used without one.")


def contradictory() -> Reject:
    """For a pair that is labelled in more than one way."""
    detail = "the same images, question and responses are labelled differently elsewhere: contradictory labels"
    return Reject("contradictory", detail, "Decide which label is right, or use --contradictions keep.")
