"""`critic-r1 label`: let a served critic label pairs of responses, and write them as training data.

All input is read and looked at before the first request is paid for. Answers are kept in a journal in the output
folder, so an interrupted run is finished by the same command. `label.json` is written last and marks completion.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict
from itertools import chain, count, islice
from pathlib import Path
from typing import IO, Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from data_prep.files import write_json
from data_prep.reading.inputs import expand_inputs
from data_prep.tasks.ordering import Orders, preference_tasks
from data_prep.tasks.pairwise import PreferenceTask
from data_prep.writer import write_parquet
from recipe.critic_r1.best_of_n.candidates import Shown
from recipe.critic_r1.cli.judge import (
    FAULTS,
    ApiKey,
    BaseUrl,
    Concurrency,
    MaxTokens,
    Model,
    Out,
    Timeout,
    Verdicts,
)
from recipe.critic_r1.judging.generation import Sampling
from recipe.critic_r1.judging.journal import Journal
from recipe.critic_r1.judging.openai_client import OpenAIGenerator
from recipe.critic_r1.labeling.dpo import DpoWriter
from recipe.critic_r1.labeling.labeler import Labeller, LabelSettings
from recipe.critic_r1.labeling.questions import LabelPrompt, LostRow, read_prompts
from reward_fns.verdict import Parsing

PROMPTS_AT_A_TIME = 256
"""Prompts whose images are in memory and whose judgements are in flight together."""


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("label")(label_command)


def label_command(
    prompts: Annotated[list[str], typer.Argument(help="JSONL or Parquet files with `question`, `image`, `responses`.")],
    model: Model,
    base_url: BaseUrl,
    out: Out,
    api_key: ApiKey = "EMPTY",
    votes: Annotated[int, typer.Option(help="Answers of the critic per pair and order.")] = 1,
    temperature: Annotated[float, typer.Option(help="Of the critic: 0 is greedy; several votes need more.")] = 0.0,
    min_confidence: Annotated[
        float, typer.Option(help="Least share of all votes, over both orders, for the chosen response.")
    ] = 0.75,
    samples: Annotated[int, typer.Option(help="Responses drawn for a row that has none.")] = 0,
    redraw: Annotated[bool, typer.Option(help="Draw them for every row, also for one that has some.")] = False,
    shown: Annotated[
        str, typer.Option(help="What the critic compares of a drawn response: response, or its final answer.")
    ] = "response",
    policy_model: Annotated[str, typer.Option(help="Who draws them; the critic itself when empty.")] = "",
    policy_url: Annotated[str, typer.Option(help="Its server; the critic's when empty.")] = "",
    policy_temperature: Annotated[float, typer.Option(help="Of the responses drawn.")] = 1.0,
    max_pairs: Annotated[
        int, typer.Option(help="Most pairs of a prompt; of more, the responses given most often.")
    ] = 6,
    wording: Annotated[str, typer.Option(help="Wording of the critic's prompt and of the tasks.")] = "critic",
    ties: Annotated[bool, typer.Option(help="Offer the critic a tie.")] = False,
    verdicts: Verdicts = "strict",
    orders: Annotated[str, typer.Option(help="Of the tasks: balanced, both or as_is.")] = "balanced",
    split: Annotated[str, typer.Option(help="Split of all pairs when there is no share of val.")] = "train",
    val_share: Annotated[float, typer.Option(help="Share of the images whose pairs go to val.")] = 0.0,
    source: Annotated[str, typer.Option(help="Name of the data: data_source becomes critic/NAME.")] = "labelled",
    image_root: Annotated[list[str] | None, typer.Option(help="Folder or zip of the images. Repeatable.")] = None,
    skip_bad_rows: Annotated[bool, typer.Option(help="Count unreadable rows and go on, instead of stopping.")] = False,
    max_tokens: MaxTokens = 2048,
    concurrency: Concurrency = 64,
    timeout: Timeout = 600.0,
    seed: Annotated[int, typer.Option(help="Of samples, drawn pairs, splits and orders.")] = 0,
) -> None:
    """Build preference data with a critic: pairs judged in both orders, as our Parquet tasks and for DPO."""
    try:
        if verdicts not in ("strict", "lenient"):
            raise ValueError(f"--verdicts {verdicts!r} is neither strict nor lenient")
        if orders not in ("balanced", "both", "as_is"):
            raise ValueError(f"--orders {orders!r} is none of balanced, both, as_is")
        if samples == 1 or samples < 0:
            raise ValueError(f"--samples {samples} makes no pair: take 2 or more")
        if shown not in ("answer", "response"):
            raise ValueError(f"--shown {shown!r} is neither answer nor response")
        if redraw and not samples:
            raise ValueError("--redraw needs --samples: 2 or more")
        settings = LabelSettings(
            sampling=Sampling(temperature=temperature, max_tokens=max_tokens, n=votes, seed=seed),
            wording=wording,
            ties=ties,
            verdicts=cast(Parsing, verdicts),
            min_confidence=min_confidence,
            max_pairs=max_pairs,
            split=split,
            val_share=val_share,
            seed=seed,
        )
        drawing: Sampling | None = None
        if samples:
            drawing = Sampling(temperature=policy_temperature, max_tokens=max_tokens, n=samples, seed=seed)
        out.mkdir(parents=True, exist_ok=True)
        (out / "label.json").unlink(missing_ok=True)
        files = expand_inputs(prompts)
        bad = _check(files, image_root or [], out, drawn=drawing is not None, skip=skip_bad_rows)
        with ExitStack() as stack:
            journal = stack.enter_context(Journal(out / "answers.jsonl"))
            client: dict[str, Any] = {"api_key": api_key, "journal": journal, "concurrency": concurrency,
                                      "timeout": timeout}  # fmt: skip
            critic = stack.enter_context(OpenAIGenerator(model, base_url, **client))
            policy = stack.enter_context(OpenAIGenerator(policy_model or model, policy_url or base_url, **client))
            labeller = Labeller(
                critic, settings, policy=policy, policy_sampling=drawing, shown=cast(Shown, shown), redraw=redraw
            )
            dpo = stack.enter_context(DpoWriter(out / "dpo"))
            judged = stack.enter_context((out / "judged.jsonl").open("w", encoding="utf-8"))
            good = (p for p in read_prompts(files, image_root or []) if isinstance(p, LabelPrompt))
            tasks = _tasks(good, labeller, dpo, judged, source=source, critic=model, orders=cast(Orders, orders))
            chosen = {"settings": asdict(settings), "critic": model, "source": source, "orders": orders}
            rows = _write_tasks(tasks, out / "tasks", chosen)
        _write_lost(out, [*bad, *labeller.lost])
        counts = labeller.tally.as_dict()
        counts["prompts"] |= {"read": counts["prompts"].get("read", 0) + len(bad), "rejected": len(bad)}
        agreed = sum(labeller.tally.pairs[name] for name in ("labelled", "low_confidence", "split_conflict"))
        compared = agreed + labeller.tally.pairs["inconsistent"]
        report = {
            **chosen,
            "policy": (policy_model or model) if drawing else None,
            "policy_sampling": asdict(drawing) if drawing else None,
            "shown": shown if drawing else "response",
            "counts": counts,
            "swap_consistency": agreed / compared if compared else None,
            "rows": {"tasks": rows, "dpo": dpo.rows},
            "traffic": {"critic": asdict(critic.traffic), "policy": asdict(policy.traffic)},
        }
        write_json(out / "label.json", report)
    except FAULTS as error:
        typer.echo(f"critic-r1: {error}", err=True)
        raise typer.Exit(2) from error
    _show(counts)
    failed = labeller.tally.pairs["request_failed"] + labeller.tally.prompts["sampling-failed"]
    if failed:
        lack = f"{failed} pairs or prompts lack answers"
        typer.echo(f"{lack}: run the same command again; answers so far are kept", err=True)
    if not rows:
        typer.echo(f"no pair was labelled: see {out / 'judged.jsonl'} and {out / 'rejected.jsonl'}", err=True)
    if failed or not rows:
        raise typer.Exit(1)


def _check(files: list[str], roots: list[str], out: Path, *, drawn: bool, skip: bool) -> list[LostRow]:
    """Read all input once; the rows that cannot be used.

    Raises:
        ValueError: there are such rows and they are not to be skipped, or there is no other.
    """
    bad: list[LostRow] = []
    usable = 0
    for item in read_prompts(files, roots):
        if isinstance(item, LabelPrompt) and not item.responses and not drawn:
            remedy = "Add 'responses' (two or more texts) to the row, or draw some with --samples 4."
            raise ValueError(str(item.lost("missing-field", "the row has no responses", remedy)))
        if isinstance(item, LostRow):
            bad.append(item)
        else:
            usable += 1
    _write_lost(out, bad)
    if bad and not skip:
        raise ValueError(
            f"{bad[0]} {len(bad)} of {usable + len(bad)} rows cannot be used, all named in {out / 'rejected.jsonl'}:"
            " mend them, or leave them out with --skip-bad-rows"
        )
    if not usable:
        raise ValueError(f"no prompt in {', '.join(files)}: each row needs a question and an image")
    return bad


def _tasks(
    prompts: Iterator[LabelPrompt],
    labeller: Labeller,
    dpo: DpoWriter,
    judged: IO[str],
    *,
    source: str,
    critic: str,
    orders: Orders,
) -> Iterator[PreferenceTask]:
    """Label the prompts, a few at a time; the tasks of the labelled pairs, which are written for DPO on the way."""
    settings, ordinals = labeller.settings, count()
    while some := list(islice(prompts, PROMPTS_AT_A_TIME)):
        for decision in labeller(some):
            judged.write(json.dumps(decision.record(), ensure_ascii=True) + "\n")
            if decision.outcome == "labelled":
                dpo.write(decision)
                yield from preference_tasks(
                    [decision.preference(source, critic)],
                    split=decision.split,
                    seed=settings.seed,
                    orders=orders,
                    wording=settings.wording,
                    ties=settings.ties,
                    start=next(ordinals),
                )


def _write_tasks(tasks: Iterator[PreferenceTask], folder: Path, settings: dict[str, Any]) -> dict[str, int]:
    """Rows per split; none when there was no task, and then what an earlier run left is gone."""
    for path in folder.glob(".*.tmp"):
        path.unlink()  # what a killed run was writing
    first = next(tasks, None)
    if first is None:
        with suppress(ValueError):
            write_parquet([], folder)
        return {}
    rows: dict[str, int] = write_parquet(chain([first], tasks), folder, settings=settings)["rows"]
    return rows


def _write_lost(out: Path, rows: list[LostRow]) -> None:
    lines = (json.dumps(asdict(row), ensure_ascii=True) for row in rows)
    (out / "rejected.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _show(counts: dict[str, dict[str, int]]) -> None:
    table = Table("what", "became", "count")
    for what, by_name in counts.items():
        for name, number in by_name.items():
            table.add_row(what, name, str(number))
    Console().print(table)
