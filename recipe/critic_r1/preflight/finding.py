"""The result of a check."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from omegaconf import DictConfig

Status = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str
    status: Status
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"\n      {self.remedy}" if self.remedy else ""
        return f"{self.status.upper():4}  {self.check}: {self.detail}{remedy}"


class PreflightError(Exception):
    """At least one check failed; the message lists them with their remedies."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        failed = [finding for finding in findings if finding.status == "fail"]
        lines = "\n".join(str(finding) for finding in failed)
        super().__init__(f"{len(failed)} check(s) failed before the run started; nothing was trained.\n{lines}")


Check = Callable[[DictConfig], Iterator[Finding]]
"""Examines one thing of a composed configuration; yields nothing when it does not apply."""
