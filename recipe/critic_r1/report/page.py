"""The page itself: what was read, handed to the template, and written in one piece.

Jinja escapes every text; judgements and chart read-outs travel as JSON blocks in which `<` is written as an escape, so
that a response holding `</script>` ends nothing. Images stand in blocks of their own, which the script opens when it
shows one: a browser then has no megabytes of base64 to parse before the first line is seen. The content policy names
our script by its hash and allows no address: the browser itself then refuses anything else, an `onerror` in a model's
answer included.
"""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recipe.critic_r1.report.best_of_n_curves import best_of_n_charts, bills, cost_tables
from recipe.critic_r1.report.charts import Chart
from recipe.critic_r1.report.comparisons import Board, make_boards
from recipe.critic_r1.report.embedded_images import Album, find_images
from recipe.critic_r1.report.failure_breakdown import failures
from recipe.critic_r1.report.judgements import Card, make_cards
from recipe.critic_r1.report.records import Judgement, ReportError
from recipe.critic_r1.report.run_files import Run, read_runs
from recipe.critic_r1.report.run_settings import missing, setups, what_differs
from recipe.critic_r1.report.tables import category_tables, duration, headlines, metric_groups
from recipe.critic_r1.report.text_pool import Texts
from recipe.critic_r1.report.training_curves import compared_curves, smoothing_note, training_curves

PAGE = "report.html"
ROLLOUTS = "rollouts"
# Judgements on the page at a time. The browser holds only these in its document, however many there are.
CARDS_AT_A_TIME = 24
SCRIPTS = ("charts.js", "judgements.js")


def json_block(value: Any) -> Markup:
    """JSON for a `<script type="application/json">`: no character sequence in it can end the block."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


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


def _judges(runs: list[Run], boards: list[Board]) -> tuple[dict[str, list[Judgement]], list[list[str]]]:
    """(name -> its judgements, names that judged the same items). Rollouts of training are judges of their own."""
    judges: dict[str, list[Judgement]] = {}
    peers = []
    for board in boards:
        judged = {column.label: column.measured.judgements for column in board.columns if column.measured.judgements}
        judges |= judged
        # Each training run has its own held-out pairs; elsewhere a board is one set of items.
        by_items: dict[str, list[str]] = {}
        for column in board.columns:
            if column.label in judged:
                by_items.setdefault(column.measured.items, []).append(column.label)
        peers += list(by_items.values())
    for run in runs:
        if run.rollouts:
            name = ROLLOUTS if len(runs) == 1 else f"{run.label} · {ROLLOUTS}"
            judges[name] = run.rollouts
            peers.append([name])
    return judges, peers


def _cards(judges: dict[str, list[Judgement]], peers: list[list[str]]) -> list[Card]:
    """Cards of each group of peers: a rollout of a pair is no judgement of the evaluation."""
    return [card for group in peers for card in make_cards({name: judges[name] for name in group})]


def _card_data(cards: list[Card], peers: list[list[str]], album: Album) -> tuple[dict[str, Any], int]:
    """(cards with their texts as numbers, number of shortened texts)."""
    texts = Texts()

    def data(card: Card) -> dict[str, Any]:
        found = asdict(card)
        for part in ("question", "response_1", "response_2"):
            found[part] = texts.place(found[part])
        for side in found["sides"].values():
            side["response"] = texts.place(side["response"])
        why = album.why_not.get(card.image)
        gone = f"Image {card.image[:12]}: {why}." if why else ""
        return found | {"images": album.of.get(card.image, []), "gone": gone}

    listed = [data(card) for card in cards]
    whole, cut = texts.listed()
    return {"at_a_time": CARDS_AT_A_TIME, "peers": peers, "texts": whole, "cards": listed}, cut


def _image_places(runs: list[Run], data: Sequence[Path]) -> list[Path]:
    recorded = [
        Path(str(path)) for run in runs for one in run.measured for path in one.settings.get("data") or () if path
    ]
    # A demo keeps its data below its own folder, a judge the tasks that it made of a benchmark.
    return [*data, *(run.root / name for run in runs for name in ("data", "tasks")), *recorded]


def _page(runs: list[Run], title: str, data: Sequence[Path]) -> str:
    trained = {run.label: run.steps for run in runs if run.steps}
    charts: list[Chart] = []
    untold: dict[str, list[str]] = {}
    if len(trained) == 1:
        ((label, steps),) = trained.items()
        charts, untold[label] = training_curves(steps)
    elif trained:
        charts = compared_curves(trained)
    boards = make_boards(runs)
    best_of = best_of_n_charts(boards)
    judges, peers = _judges(runs, boards)
    cards = _cards(judges, peers)
    album = find_images(_image_places(runs, data), {card.image for card in cards if card.image})
    card_data, cut = _card_data(cards, peers, album)
    tables = [(board, metric_groups(board)) for board in boards]

    environment = _environment()
    source = environment.loader
    assert source is not None
    script = "\n".join(source.get_source(environment, name)[0] for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rollouts = sum(len(run.rollouts) for run in runs)
    return environment.get_template("report.html.j2").render(
        policy=(
            f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
            "base-uri 'none'; form-action 'none'"
        ),
        style=Markup(source.get_source(environment, "report.css")[0]),
        script=Markup(script),
        title=title,
        runs=runs,
        trains=any(run.info for run in runs),
        notes=missing(runs, untold, cut),
        boards=[
            (board, groups, headlines(board, groups), failures(board), category_tables(board))
            for board, groups in tables
            if groups or board.columns[0].measured.judgements
        ],
        steps=max((len(steps) for steps in trained.values()), default=0),
        smoothing=smoothing_note(max((len(steps) for steps in trained.values()), default=0)),
        charts=charts,
        best_of=best_of,
        costs=cost_tables(boards),
        bills=bills(boards),
        readouts=[chart.readout for chart in charts + best_of],
        names=list(judges),
        chosen=next((name for name in reversed(judges) if not name.endswith(ROLLOUTS)), next(iter(judges), "")),
        judged=len(cards) - rollouts,
        rollouts=rollouts,
        differs=what_differs(runs),
        setups=setups(runs),
        card_data=card_data,
        images=album.uris,
        at_a_time=CARDS_AT_A_TIME,
    )


def build_report(run_dir: Path) -> Path:
    """Writes the report of one run into its folder and returns its path. See `build_page`."""
    return build_page([str(run_dir)])


def build_page(given: Sequence[str], out: Path | None = None, *, data: Sequence[Path] = ()) -> Path:
    """Writes one page on all given runs (`FOLDER` or `NAME=FOLDER` each) and returns its path.

    What a run lacks is said on the page.

    Args:
        out: the page; by default `report.html` in the folder of the run, or of several runs in the working directory.
        data: Parquet files or folders to look for images in, before the runs' own `data/` and what they name.

    Raises ReportError, which names file and line, when a folder is of no run or a file that is there cannot be read.
    """
    if lost := [str(path) for path in data if not path.exists()]:
        raise ReportError(f"{lost[0]} does not exist; give Parquet files or folders that hold the images")
    runs = read_runs(given)
    alone = runs[0] if len(runs) == 1 else None
    title = f"{len(runs)} runs side by side" if alone is None else alone.info.name if alone.info else alone.label
    # A lone surrogate from a broken tokenizer has no UTF-8 form: it is written as the escape that JSON reads back.
    page = _page(runs, title, data).encode("utf-8", "backslashreplace")
    target = out or (alone.root if alone else Path()) / PAGE
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".html.part")
    part.write_bytes(page)
    os.replace(part, target)
    return target
