"""`critic-r1 prepare`, `validate`, `overlap` and `show`: options only; `data_prep` does the work."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from data_prep.terminal import one_line, printable

if TYPE_CHECKING:
    from data_prep.settings import Settings

console = Console()
errors = Console(stderr=True)

LIBRARY_VARIABLES = {"MIMALLOC_PURGE_DELAY": "-1", "FASTOKENS_BPE_THREADS": "1"}
"""Variables that libraries read when they are loaded. Arrow keeps what it frees, instead of asking for the same memory
again batch after batch; `fastokens` counts in the thread that asks, for every core has its work already."""


IMAGE_ROOT = "Folder that named images may lie in, besides the folder of the file; / allows any file."


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Print an error that the user can fix as one red line and exit with 2, without a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        errors.print(Text(printable(error), style="red"))
        raise typer.Exit(2) from error


def _list_sources(listing: bool) -> None:
    if not listing:
        return
    from data_prep.sources.registry import NAMES, load_source

    for name in NAMES:
        s = load_source(name)
        console.print(Text.assemble((s.name, "bold"), f"  {s.title}"))
        facts = {"size": s.size, "licence": s.licence, "label": s.label_rule}
        facts["images"] = "named only; give --image-root" if s.needs_image_root else "included"
        for what, fact in facts.items():
            console.print(Text(f"    {what:<9} {fact}"))
    console.print("Or a function of your own: FILE.py:FUNCTION (docs/data.md).")
    raise typer.Exit


def prepare(
    source: Annotated[str, typer.Argument(help="Name of a source (see --list), auto, or FILE.py:FUNCTION.")],
    input: Annotated[list[str], typer.Option(help="Files, globs, folders, fsspec addresses or a hub id. Repeatable.")],
    output: Annotated[Path, typer.Option(help="Folder for the Parquet files.")],
    image_root: Annotated[
        list[str] | None, typer.Option(help="Folder, zip or address with the images that rows name. Repeatable.")
    ] = None,
    ties: Annotated[Literal["keep", "drop"], typer.Option(help="What to do with pairs labelled as ties.")] = "keep",
    orders: Annotated[
        Literal["balanced", "both", "as_is"],
        typer.Option(help="Order of the responses; both makes two tasks of each pair."),
    ] = "balanced",
    min_gap: Annotated[float, typer.Option(help="VLFeedback: minimum difference of two mean ratings.")] = 0.6,
    template: Annotated[
        str, typer.Option(help="Prompt template by name, or drawn: a random one for each pair.")
    ] = "critic",
    nway: Annotated[
        Literal["pairs", "tasks", "rankings"],
        typer.Option(
            help="Ranked responses become all their pairs, or one task each: find the best of N, or rank all N."
        ),
    ] = "pairs",
    twins: Annotated[
        bool,
        typer.Option(
            help="Add a twin to each pair with images: the same question and responses under the images of another"
            " pair, labelled as a tie."
        ),
    ] = False,
    split: Annotated[str, typer.Option(help="Name of the split, when --val-share is 0.")] = "train",
    val_share: Annotated[float, typer.Option(help="Share of the images that go to the split val, 0 to 1.")] = 0.0,
    model: Annotated[
        str | None, typer.Option(help="Model folder or hub id; its processor measures the prompts.")
    ] = None,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(help="Reject prompts with more tokens; needs --model.")
    ] = None,
    min_pixels: Annotated[
        int | None, typer.Option(help="Minimum number of pixels of an image in training. Default: the processor's.")
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(help="Maximum number of pixels of an image in training. Default: the processor's.")
    ] = None,
    images: Annotated[
        Literal["embed", "reference"], typer.Option(help="Store images in the Parquet files, or beside them.")
    ] = "embed",
    hashes: Annotated[bool, typer.Option(help="Hash every image (BLAKE3) and every shard (XXH3).")] = True,
    map: Annotated[
        list[str] | None,
        typer.Option(help="generic: FIELD=COLUMN, where COLUMN may be a path such as a.b[0].c. Repeatable."),
    ] = None,
    label_values: Annotated[
        list[str] | None,
        typer.Option(help="Meaning of a label: VALUE=first, second, tie or skip. Repeatable."),
    ] = None,
    contradictions: Annotated[
        Literal["drop", "keep"], typer.Option(help="What to do with pairs that are labelled in more than one way.")
    ] = "drop",
    text_only: Annotated[bool, typer.Option(help="generic: take records without an image.")] = False,
    frames: Annotated[
        int, typer.Option(help="Questions about a video: number of its frames, evenly spread, to take as images.")
    ] = 0,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Prepared benchmark whose rows must not be used. Repeatable.")
    ] = None,
    near: Annotated[bool, typer.Option(help="--exclude also finds images that are almost the same.")] = True,
    exclude_texts: Annotated[
        Literal["long", "any", "never"],
        typer.Option(
            help="Which equal texts --exclude counts when their images differ; long: responses too long to be equal by"
            " chance."
        ),
    ] = "long",
    seed: Annotated[int, typer.Option(help="Seed of orders, splits, random templates and flips.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Read at most this many records.")] = None,
    shard_rows: Annotated[int | None, typer.Option(help="Records per shard.")] = None,
    flip_labels: Annotated[float, typer.Option(help="Control experiments: share of the labels to flip.")] = 0.0,
    workers: Annotated[int, typer.Option(help="Number of processes or Ray actors.")] = 1,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Run on this machine, or on a Ray cluster.")
    ] = "local",
    overwrite: Annotated[bool, typer.Option(help="Replace what an earlier run wrote into --output.")] = False,
    list_: Annotated[
        bool, typer.Option("--list", is_eager=True, callback=_list_sources, help="List the sources and exit.")
    ] = False,
) -> None:
    """Turn preference data into tasks that stock verl trains on."""
    for name, value in LIBRARY_VARIABLES.items():
        os.environ.setdefault(name, value)  # before they are loaded, for this process and its workers

    from data_prep.convert import convert
    from data_prep.reading.units import UNIT_ROWS
    from data_prep.settings import Settings

    with _plain_errors():
        settings = Settings(
            source=source,
            seed=seed,
            ties=ties,
            orders=orders,
            min_gap=min_gap,
            template=template,
            nway=nway,
            twins=twins,
            split=split,
            val_share=val_share,
            model=model,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            max_prompt_tokens=max_prompt_tokens,
            images=images,
            hashes=hashes,
            flip_labels=flip_labels,
            limit=limit,
            unit_rows=shard_rows or UNIT_ROWS,
            columns=_assignments("--map", map or []),
            label_values=_assignments("--label-values", label_values or []),
            contradictions=contradictions,
            text_only=text_only,
            frames=frames,
            image_roots=tuple(image_root or ()),
        )
        if source == "auto":
            settings = _detected(input, settings)
        columns = TextColumn("[progress.description]{task.description}"), BarColumn(), MofNCompleteColumn()
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=errors) as bar:
            task = bar.add_task(settings.source, total=None)
            manifest = convert(
                input,
                output,
                settings,
                workers=workers,
                exclude=exclude or (),
                perceptual=near,
                exclude_texts=exclude_texts,
                overwrite=overwrite,
                engine=engine,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
                tell=lambda text: console.print(Text(printable(text))),
            )
    _summary(manifest, output)


def _detected(inputs: list[str], settings: "Settings") -> "Settings":
    """The settings with the source that reads the input; prints how it reads the first records."""
    from data_prep.detect import detect
    from data_prep.reading.inputs import expand_inputs

    found = detect(expand_inputs(inputs), settings)
    console.print(Text(f"{found.source} reads {found.read} of the first {found.seen} records, for example:"))
    for example in found.examples:
        console.print(Text(printable(example)))
        console.print()
    return replace(settings, source=found.source)


def _assignments(option: str, pairs: list[str]) -> dict[str, str]:
    """The values of a repeatable option of the form NAME=VALUE; a label may itself hold `=`."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=") if option == "--map" else pair.rpartition("=")
        if not equals or not name:
            raise ValueError(f"{option} {pair}: give NAME=VALUE")
        if found.setdefault(name, value) != value:
            raise ValueError(f"{option} {name} is given twice: {found[name]} and {value}")
    return found


def _summary(manifest: dict[str, Any], output: Path) -> None:
    from data_prep.dataset_card import balance

    records = manifest["records"]
    names, by_label = balance(manifest["labels"])
    table = Table("Split and source", "Rows", *names, title=Text(one_line(output)))
    for key, counts in by_label.items():
        table.add_row(Text(one_line(key)), str(sum(counts)), *map(str, counts))
    console.print(table)
    console.print(f"{records['in']} records read, {records['used']} used, {records['rejected']} rejected")
    for reason, count in manifest["rejected"].items():
        console.print(Text(one_line(f"  rejected: {reason}: {count}")))
    for reason, count in manifest["dropped_pairs"].items():
        console.print(Text(one_line(f"  pairs left out of used records: {reason}: {count}")))
    if manifest["kept_contradictions"]:
        console.print(f"  kept with contradictory labels: {manifest['kept_contradictions']} pairs")
    for reason, count in manifest["normalised_images"].items():
        console.print(f"  images stored as PNG, because other readers show the file differently ({reason}): {count}")
    if not records["in"]:
        errors.print(Text("no task was made: the input holds no record", style="red"))
        raise typer.Exit(1)
    if not records["used"]:
        errors.print(Text(f"no task was made; see {output / 'rejected.jsonl'}, which begins with:", style="red"))
        with (output / "rejected.jsonl").open(encoding="utf-8") as stream:
            first = json.loads(next(stream, "{}"))
        errors.print(Text(printable(f"{first.get('detail', '')} {first.get('remedy', '')}")))
        raise typer.Exit(1)


def validate(
    paths: Annotated[list[Path], typer.Argument(help="Folders or Parquet files of tasks.")],
    verl: Annotated[bool, typer.Option(help="Load every row through verl's dataset class, too.")] = True,
    resume: Annotated[bool, typer.Option(help="Skip shards already found good.")] = True,
    image_root: Annotated[list[str] | None, typer.Option(help=IMAGE_ROOT)] = None,
) -> None:
    """Prove that every row loads and that its gold answer earns 1.0."""
    from data_prep.checks.verl import validate as run

    with _plain_errors():
        report = run(
            paths,
            through_verl=verl,
            resume=resume,
            image_roots=image_root or (),
            progress=lambda name, rows: errors.print(Text(one_line(f"{name}: {rows} rows"))),
        )
    if report.n_unlike_verl:
        first = f", first {report.unlike_verl[0]}" if report.unlike_verl else ""
        console.print(Text(one_line(f"stock verl shows {report.n_unlike_verl} images differently{first}")))
    if report.ok:
        console.print(f"{report.rows} rows are good")
        return
    table = Table(
        "File", "Row", "Reason", "What", "Remedy", title=f"{report.n_failures} failures in {report.rows} rows"
    )
    for failure in report.failures[:50]:
        row = "" if failure.row is None else str(failure.row)
        cells = Path(failure.file).name, row, failure.reason, failure.detail, failure.remedy
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    console.print(table)
    if report.n_failures > 50:
        console.print(f"... and {report.n_failures - 50} more")
    raise typer.Exit(1)


def overlap(
    a: Annotated[Path, typer.Argument(help="Prepared training files.")],
    b: Annotated[Path, typer.Argument(help="Prepared benchmark files.")],
    near: Annotated[bool, typer.Option(help="Compare perceptual hashes, too.")] = True,
    image_root: Annotated[list[str] | None, typer.Option(help=IMAGE_ROOT)] = None,
) -> None:
    """Count the rows of A that also occur in B."""
    from data_prep.checks.overlap import compare

    with _plain_errors():
        report = compare([a], [b], perceptual=near, image_roots=image_root or ())
    table = Table("What", "Rows of A", title=Text(one_line(f"{a} in {b}")))
    for what, count in (
        ("all", report.rows),
        ("same image", report.same_image),
        ("almost the same image", report.near_image),
        ("same question and responses", report.same_text),
        ("any of these", report.any),
    ):
        table.add_row(what, str(count))
    console.print(table)
    if report.unreadable:
        console.print(f"{report.unreadable} images cannot be read and were not compared; see `critic-r1 validate`")
    for name, how, other in report.examples[:10]:
        console.print(Text(one_line(f"{name}: {how} as {other}")), soft_wrap=True)


def show(
    directory: Annotated[Path, typer.Argument(help="Folder of tasks.")],
    n: Annotated[int, typer.Option("-n", help="Number of tasks to show.")] = 3,
    seed: Annotated[int, typer.Option(help="Decides which tasks are shown.")] = 0,
    sheet: Annotated[Path | None, typer.Option("--html", help="Write a page with the images.")] = None,
    image_root: Annotated[list[str] | None, typer.Option(help=IMAGE_ROOT)] = None,
) -> None:
    """Print a few tasks, and write a page that shows them with their images."""
    from data_prep.checks.show import ground_truth, html_sheet, prompt_text, sample_rows

    with _plain_errors():
        rows = list(sample_rows([directory], n, seed))
    for file, row in rows:
        title = f"{file.name}  {row['data_source']}  label {ground_truth(row)}  {len(row['images'] or [])} image(s)"
        console.rule(Text(one_line(title)))
        console.print(Text(printable(prompt_text(row))))
    if sheet is not None:
        with _plain_errors():
            html_sheet(rows, sheet, image_roots=image_root or ())
        console.print(Text(printable(f"page: {sheet}")))


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (prepare, validate, overlap, show):
        app.command()(command)
