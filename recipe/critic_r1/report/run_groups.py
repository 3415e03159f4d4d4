"""The settings of a run as rows of a table, and which runs repeat one another with another seed."""

from typing import Any

from recipe.critic_r1.report.run_files import Kind, Run

KINDS: dict[Kind, str] = {"held-out": "", "benchmark": "judge", "best-of-n": "best of N", "policy": "policy evaluation"}


def settings_of(run: Run) -> dict[str, Any]:
    """All settings of a run; those of a judge run beside those of training where a folder holds both."""
    found: dict[str, Any] = dict(run.info.settings) if run.info else {}
    if run.info and run.info.seed is not None:
        found = {"seed": run.info.seed} | found
    for one in run.measured:
        if one.settings:
            alone = len([other for other in run.measured if other.settings]) == 1 and not run.info
            found |= one.settings if alone else {KINDS[one.kind]: one.settings}
    return found


def flat(settings: dict[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (dotted key, value) rows."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", "–" if value is None else str(value)))
    return rows


def repeats(runs: list[Run]) -> list[Run]:
    """Most training runs that differ in nothing but their seed, one a seed; none where there are no two of them."""
    groups: dict[tuple[tuple[str, str], ...], dict[int | None, Run]] = {}
    for run in runs:
        if run.info:
            rows = [(key, value) for key, value in flat(settings_of(run)) if key != "seed"]
            groups.setdefault(tuple(rows), {}).setdefault(run.info.seed, run)
    most = max(groups.values(), key=len, default={})
    return list(most.values()) if len(most) > 1 else []
