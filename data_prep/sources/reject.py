"""Why a record, or one pair of it, cannot become a task."""


class Reject(Exception):
    """Raised for a record; also yielded by a source, in the place of a pair that it leaves out of a record."""

    def __init__(self, reason: str, detail: str, remedy: str = "Look at the record in rejected.jsonl.") -> None:
        """
        Args:
            reason: short code, for counting.
            detail: what is wrong, with the value that is.
            remedy: what the user can do.
        """
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.remedy = remedy


def same_responses(detail: str = "both responses are the same text") -> Reject:
    """Nobody can prefer one of two equal texts."""
    return Reject("same-responses", detail, "Nothing to learn from; leave it out.")


def repeated() -> Reject:
    """Of a pair that a record, or one before it, gives already."""
    detail = "an earlier record has the same images, question, responses and label"
    return Reject("duplicate", detail, "Nothing to do; the first one is kept.")
