"""The page itself: what was read, handed to the template, and written in one piece.

Jinja escapes every text; cards and chart read-outs travel as JSON blocks in which `<` is written as an escape, so that
a response holding `</script>` ends nothing. The content policy names our script by its hash and allows no address: the
browser itself then refuses anything else, an `onerror` in a model's answer included.
"""

import base64
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recipe.critic_r1.report.charts import Chart
from recipe.critic_r1.report.curves import best_of_n_charts, smoothing_note, training_curves
from recipe.critic_r1.report.judgements import Card, make_cards
from recipe.critic_r1.report.pictures import Album, find_pictures
from recipe.critic_r1.report.run_files import METRICS, ROLLOUTS, RunFiles, read_run
from recipe.critic_r1.report.tables import duration, flat, headlines, metric_groups

PAGE = "report.html"
# Judgements on the page at a time. The browser holds only these in its document, however many the run has.
CARDS_AT_A_TIME = 24


def json_block(value: Any) -> Markup:
    """JSON for a `<script type="application/json">`: no character sequence in it can end the block."""
    return Markup(json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("recipe.critic_r1.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json_block"] = json_block
    environment.filters["duration"] = duration
    return environment


def _card_data(cards: list[Card], album: Album) -> dict[str, Any]:
    """Cards that name their pictures by place, or say why there is none."""

    def data(card: Card) -> dict[str, Any]:
        why = album.why_not.get(card.picture)
        gone = f"Picture {card.picture[:12]}: {why}." if why else ""
        return asdict(card) | {"pictures": album.of.get(card.picture, []), "gone": gone}

    return {"at_a_time": CARDS_AT_A_TIME, "pictures": album.uris, "cards": [data(card) for card in cards]}


def _missing(run: RunFiles, untold: list[str]) -> list[str]:
    """What a whole run has and this one lacks, in plain sentences."""
    sentences = list(run.notes)
    if not run.steps:
        sentences.append(f"{METRICS} is missing or empty: no training curves.")
    elif untold:
        sentences.append(f"{METRICS} does not hold: {'; '.join(untold)}.")
    for name in ("before", "after"):
        if name not in run.evaluations:
            sentences.append(f"eval/{name}.json is missing: no figures from {name} training.")
        elif not run.evaluations[name].curves:
            sentences.append(f"eval/{name}.json has no curves: no best of N from {name} training.")
        if not run.judgements.get(name):
            sentences.append(f"eval/{name}_judgements.jsonl is missing or empty: no judgements from {name} training.")
    return sentences


def _bills(run: RunFiles) -> dict[str, list[tuple[str, str]]]:
    """What each best-of-N cost: caption -> rows."""
    return {
        f"Cost of {pool.replace('_', ' ')}, {name}": [
            (key.replace("_", " "), f"{cost:,.0f}") for key, cost in bill.items()
        ]
        for name, evaluation in run.evaluations.items()
        for pool, bill in evaluation.bills.items()
    }


def _page(run: RunFiles) -> str:
    charts: list[Chart] = []
    untold: list[str] = []
    if run.steps:
        charts, untold = training_curves(run.steps)
    cards = make_cards(run.judgements) + make_cards({ROLLOUTS: run.rollouts})
    album = find_pictures(run.root / "data", {card.picture for card in cards if card.picture})
    groups = metric_groups(run.evaluations)
    best_of = best_of_n_charts(run.evaluations)

    environment = _environment()
    source = environment.loader
    assert source is not None
    script = source.get_source(environment, "report.js")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        policy=(
            f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
            "base-uri 'none'; form-action 'none'"
        ),
        style=Markup(source.get_source(environment, "report.css")[0]),
        script=Markup(script),
        info=run.info,
        settings=flat(run.info.settings),
        machine=flat(run.info.machine),
        versions=flat(run.info.versions),
        control=flat(run.info.control) if run.info.control else [],
        seconds=sum(stage.seconds or 0 for stage in run.info.stages),
        missing=_missing(run, untold),
        steps=run.steps,
        smoothing=smoothing_note(run.steps),
        charts=charts,
        best_of=best_of,
        readouts=[chart.readout for chart in charts + best_of],
        evaluations=list(run.evaluations),
        bills=_bills(run),
        groups=groups,
        tiles=headlines(groups),
        names=list(run.judgements) + ([ROLLOUTS] if run.rollouts else []),
        chosen=next(reversed(run.judgements), ROLLOUTS),
        judged=len(cards) - len(run.rollouts),
        rollouts=len(run.rollouts),
        card_data=_card_data(cards, album),
        at_a_time=CARDS_AT_A_TIME,
    )


def build_report(run_dir: Path) -> Path:
    """Writes `run_dir/report.html` and returns its path.

    Needs only `run.json`; what else is missing is said on the page. Raises ReportError, which names file and line,
    when a file that is there cannot be read.
    """
    run = read_run(Path(run_dir))
    # A lone surrogate from a broken tokenizer has no UTF-8 form: it is written as the escape that JSON reads back.
    page = _page(run).encode("utf-8", "backslashreplace")
    target = run.root / PAGE
    part = target.with_suffix(".html.part")
    part.write_bytes(page)
    os.replace(part, target)
    return target
