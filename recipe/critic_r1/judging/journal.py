"""Answers of a server, saved so that a request is paid for once.

One JSON line per request, appended when its answer arrives and keyed by everything that can change the answer. A run
that was killed resumes, a repeated run sends nothing. Failures are written too, for the reader; all but final ones (of
a content filter) are retried.

A kill can only truncate the last line, which is removed at the next start. On a full disk, a small reserve file is
given up to save the answers in flight.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from pathlib import Path
from typing import Any

from data_prep.files import encodable
from recipe.critic_r1.judging.generation import Generation

RESERVE_BYTES = 4 << 20
"""Space for the answers in flight when the disk is full: 256 of 16 kB."""

_BEGINNING = b'{"key": "'
"""Every line begins so; a truncated last line that does not was not written by us."""


class JournalFullError(OSError):
    """The disk is full. All answers that arrived are saved."""


class JournalBusyError(RuntimeError):
    """Another process is writing to the journal."""


class Journal:
    """An append-only file of generations.

    Args:
        path: of the file; created with its folder if it does not exist.

    Raises:
        JournalBusyError: another process has it open.
        ValueError: the path is a symbolic link, or a line is not a record; the message names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise ValueError(f"{path} is a symbolic link, which is not followed: remove it") from error
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise ValueError(f"{path} is not a file: remove it, or choose another folder")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise JournalBusyError(f"{path} is in use by another run: wait for it, or choose another file") from error
        self._answers: dict[str, Generation] = {}
        self._reserve = path.with_name(f".{path.name}.reserve")
        self.full = False
        try:
            self._load()
            self._hold_reserve()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Generation | None:
        """The final answer to a request; None when there is none, or only a failure to retry."""
        return self._answers.get(key)

    def put(self, key: str, generation: Generation) -> None:
        """Append an answer or a failure.

        When the disk is full, the reserve is removed, the line is written, and `full` is set: the caller should send no
        more requests.

        Raises:
            JournalFullError: the reserve was not enough.
        """
        line = (json.dumps({"key": key, **_record(generation)}, ensure_ascii=True) + "\n").encode()
        try:
            self._append(line)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.full = True
            self._reserve.unlink(missing_ok=True)
            try:
                self._append(line)
            except OSError as again:
                raise JournalFullError(
                    again.errno, f"no space left for {self.path}: free some and run again; answers so far are kept"
                ) from error
        if generation.final:
            self._answers[key] = generation

    def close(self) -> None:
        """Close the file and remove the reserve."""
        if self._fd >= 0:
            self._reserve.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def _append(self, line: bytes) -> None:
        """Append the complete line or nothing."""
        size = os.fstat(self._fd).st_size
        written = 0
        try:
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except OSError:
            os.ftruncate(self._fd, size)
            raise

    def _load(self) -> None:
        with open(os.dup(self._fd), "rb") as stream:
            stream.seek(0)
            complete = 0
            for number, line in enumerate(stream, start=1):
                if not line.endswith(b"\n") and line[: len(_BEGINNING)] == _BEGINNING[: len(line)]:
                    break
                try:
                    record = json.loads(line)
                    generation = _generation(record)
                    if generation.final:
                        self._answers[str(record["key"])] = generation
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                    raise ValueError(
                        f"{self.path} line {number} is not a record of an answer ({error}): delete that line, or choose"
                        " another folder"
                    ) from error
                complete += len(line)
        os.ftruncate(self._fd, complete)

    def _hold_reserve(self) -> None:
        self._reserve.unlink(missing_ok=True)
        fd = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
        except OSError as error:
            self._reserve.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise JournalFullError(
                    error.errno, f"no space left for {self.path}: free some and run again"
                ) from error
            # On file systems without fallocate there is no reserve, and a full disk stops the run at once.
        finally:
            os.close(fd)


def _record(generation: Generation) -> dict[str, Any]:
    if generation.error is not None:
        return {"error": generation.error, "failure": generation.failure}
    return {
        "texts": list(generation.texts),
        "finish_reasons": list(generation.finish_reasons),
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
    }


def _generation(record: dict[str, Any]) -> Generation:
    """What `_record` wrote. An answer with an unknown finish reason is a failure."""
    if record.get("error") is not None:
        return Generation((), error=str(record["error"]), failure=record.get("failure", "failed"))
    texts, reasons = record["texts"], record["finish_reasons"]
    if not isinstance(texts, list) or not 0 < len(texts) == len(reasons) or {type(text) for text in texts} != {str}:
        raise TypeError("no texts, or not as many texts as reasons")
    if not set(reasons) <= {"stop", "length", "refusal"}:
        return Generation((), error=f"ended with {reasons}")
    tokens = int(record["prompt_tokens"]), int(record["completion_tokens"])
    return Generation(tuple(map(encodable, texts)), tuple(reasons), *tokens)
