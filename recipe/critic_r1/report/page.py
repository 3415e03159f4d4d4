"""The page: data for the template, and the template rendered and written.

Jinja escapes every text. Judgements and chart read-outs are JSON blocks in which `<` is escaped, so that a response
with `</script>` does not end them. Images are in separate blocks that the script reads when it shows one, so that the
page appears before megabytes of base64 are parsed. The content security policy allows our script by its hash and no
address: the browser refuses anything else, such as an `onerror` in a response.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from data_prep.files import refuse_foreign_file, write_text
from recipe.critic_r1.report.best_of_n_curves import best_of_n_charts, bills, cost_tables
from recipe.critic_r1.report.charts import Chart, duration
from recipe.critic_r1.report.comparisons import Board, make_boards
from recipe.critic_r1.report.embedded_images import Album, find_images, parquet_files
from recipe.critic_r1.report.failure_breakdown import failures
from recipe.critic_r1.report.judgements import Card, make_cards
from recipe.critic_r1.report.records import JudgementLine, ReportError
from recipe.critic_r1.report.run_files import Run, read_runs
from recipe.critic_r1.report.run_settings import missing, setups, what_differs
from recipe.critic_r1.report.tables import category_tables, headlines, metric_groups
from recipe.critic_r1.report.text_pool import Texts
from recipe.critic_r1.report.training_curves import compared_curves, smoothing_note, training_curves

PAGE = "report.html"
MARK = "critic-r1 report</title>"
"""Identifies a page of ours."""
ROLLOUTS = "rollouts"
# Judgements in the browser's document at a time.
CARDS_AT_A_TIME = 24
SCRIPTS = ("charts.js", "judgements.js")


def json_block(value: Any) -> Markup:
    """JSON for a `<script type="application/json">`, which nothing in it can end."""
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


def _judges(runs: list[Run], boards: list[Board]) -> tuple[dict[str, list[JudgementLine]], list[list[str]]]:
    """(name -> its judgements, groups of names that judged the same items). Training rollouts are separate judges."""
    judges: dict[str, list[JudgementLine]] = {}
    peers = []
    for board in boards:
        judged = {column.label: column.measured.judgements for column in board.columns if column.measured.judgements}
        judges |= judged
        # Training runs share a board and have their own held-out pairs.
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


def _cards(judges: dict[str, list[JudgementLine]], peers: list[list[str]]) -> list[Card]:
    """Cards of each group of peers, which have the same pairs."""
    return [card for group in peers for card in make_cards({name: judges[name] for name in group})]


def _card_data(cards: list[Card], peers: list[list[str]], album: Album) -> tuple[dict[str, Any], int]:
    """(cards with texts replaced by their numbers, number of shortened texts)."""
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
    all_texts, cut = texts.listed()
    return {"at_a_time": CARDS_AT_A_TIME, "peers": peers, "texts": all_texts, "cards": listed}, cut


def _image_files(runs: list[Run], data: Sequence[Path]) -> list[Path]:
    """Parquet files in ``data``, and in each run's folder: `data`, `tasks` and what its settings name.

    Settings may come from anyone: places outside the run's folder are not opened, and the page says so.
    """
    found = parquet_files(data)
    given = {file.resolve() for file in (*data, *found)}
    for run in runs:
        recorded = [path for one in run.measured for path in _listed_paths(one.settings.get("data"))]
        places = [run.root / "data", run.root / "tasks", *(path for path in recorded if run.holds(path))]
        found += [file for file in parquet_files(places) if run.holds(file)]
        outside = {str(path) for path in recorded if not run.holds(path) and path.resolve() not in given}
        if outside:
            run.notes.append(
                f"Images are not looked up outside the run's folder unless --data names the place; the run's record "
                f"names {', '.join(sorted(outside))}."
            )
    return list(dict.fromkeys(found))


def _listed_paths(value: Any) -> list[Path]:
    listed = value if isinstance(value, list) else [value]
    return [Path(path) for path in listed if isinstance(path, str) and path and "\0" not in path]


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
    album = find_images(_image_files(runs, data), {card.image for card in cards if card.image})
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
        notes=[*missing(runs, untold, cut), *album.notes],
        boards=[
            (board, groups, headlines(board, groups), failures(board), category_tables(board))
            for board, groups in tables
            if groups or board.columns[0].measured.judgements
        ],
        steps=max((len(steps) for steps in trained.values()), default=0),
        smoothing=smoothing_note(max((len(steps) for steps in trained.values()), default=0)),
        charts=charts,
        groups=[group for run in runs for group in run.groups],
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
    """Write the report of one run into its folder and return its path. See `build_page`."""
    return build_page([str(run_dir)])


def build_page(given: Sequence[str], out: Path | None = None, *, data: Sequence[Path] = ()) -> Path:
    """Write one page about all given runs (`FOLDER` or `NAME=FOLDER` each) and return its path.

    The page lists what a run lacks and what could not be used.

    Args:
        out: the page; by default `report.html` in the folder of the run, or for several runs in the working directory.
        data: Parquet files or folders with images, searched before the runs' own `data/` and `tasks/`.

    Raises:
        ReportError: a folder is not that of a run. FileExistsError: `out` exists and is not a report.
    """
    if lost := [str(path) for path in data if not path.exists()]:
        raise ReportError(f"{lost[0]} does not exist; give Parquet files or folders with the images")
    runs = read_runs(given)
    alone = runs[0] if len(runs) == 1 else None
    title = f"{len(runs)} runs side by side" if alone is None else alone.info.name if alone.info else alone.label
    target = out or (alone.root if alone else Path()) / PAGE
    refuse_foreign_file(target, MARK, "a report")
    write_text(target, _page(runs, title, data))
    return target
