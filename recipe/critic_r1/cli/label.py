"""`critic-r1 label`: pairs of responses, labelled by a served critic or by known answers, as training data.

All input is read and checked before the first request is paid for. Answers are kept in a journal in the output folder,
so the same command resumes an interrupted run. `label.json` is written last and marks completion.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict
from itertools import chain, count, islice
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import typer
from rich.table import Table

from data_prep.files import json_line, write_json, write_json_lines
from data_prep.reading.inputs import expand_inputs
from data_prep.tasks.ordering import Orders, preference_tasks
from data_prep.tasks.pairwise import PreferenceTask
from data_prep.writer import write_parquet
from recipe.critic_r1.cli.options import (
    FAULTS,
    ApiKey,
    BaseUrl,
    Concurrency,
    ImageRoot,
    MaxTokens,
    Model,
    Out,
    Prefilled,
    Request,
    Shown,
    Template,
    Timeout,
    Verdicts,
    close,
    connect,
    is_prefilled,
    key_for,
    request_fields,
    tell,
)
from recipe.critic_r1.cli.output import cell, claimed, console, ending, warn
from recipe.critic_r1.judging.generation import Sampling
from recipe.critic_r1.judging.journal import Journal
from recipe.critic_r1.labeling.dpo import DpoWriter
from recipe.critic_r1.labeling.labeler import Labeller, LabelSettings, Miner
from recipe.critic_r1.labeling.questions import LabelPrompt, LostRow, read_prompts
from recipe.critic_r1.redaction import redacted
from reward_fns.answer import check_ground_truth, same_answer

RESULTS = ("label.json", "judged.jsonl", "rejected.jsonl", "refused.jsonl", "tasks", "dpo")

PROMPTS_AT_A_TIME = 256
"""Prompts whose images are in memory and whose judgements are in flight together."""


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("label")(label_command)


def label_command(
    prompts: Annotated[
        list[str],
        typer.Argument(help="JSONL, JSON or Parquet files with `question`, `image` and, optionally, `responses`."),
    ],
    model: Model,
    base_url: BaseUrl,
    out: Out,
    api_key: ApiKey = "",
    truth: Annotated[
        bool,
        typer.Option(
            "--truth",
            help="Ask no critic: pair right with wrong responses by each row's `answer`; frequent wrong answers first.",
        ),
    ] = False,
    instruct: Annotated[
        bool,
        typer.Option(
            help="With --truth, ask the policy for thoughts and a boxed answer where a row holds no prompt of its own."
        ),
    ] = True,
    votes: Annotated[int, typer.Option(help="Answers to sample from the critic per pair and order.")] = 1,
    temperature: Annotated[
        float, typer.Option(help="Sampling temperature of the critic; 0 is greedy, several votes need more.")
    ] = 0.0,
    min_confidence: Annotated[
        float, typer.Option(help="Least share of all votes, over both orders, that the chosen response needs.")
    ] = 0.75,
    samples: Annotated[int, typer.Option(help="Responses to sample for each row that has none.")] = 0,
    redraw: Annotated[bool, typer.Option(help="Sample responses for every row, replacing those that it has.")] = False,
    shown: Shown = "response",
    policy_model: Annotated[str, typer.Option(help="Model that samples the responses. Default: --model.")] = "",
    policy_url: Annotated[str, typer.Option(help="Address of the policy's server. Default: --base-url.")] = "",
    policy_temperature: Annotated[float, typer.Option(help="Sampling temperature of the responses.")] = 1.0,
    max_pairs: Annotated[
        int, typer.Option(help="Maximum number of pairs per prompt; the most frequent responses are paired first.")
    ] = 6,
    template: Template = "critic",
    ties: Annotated[bool, typer.Option(help="Offer the critic a tie as a verdict.")] = False,
    verdicts: Verdicts = "strict",
    prefilled: Prefilled = None,
    request: Request = None,
    orders: Annotated[
        Literal["balanced", "both", "as_is"], typer.Option(help="Order of the responses in the tasks that are written.")
    ] = "balanced",
    split: Annotated[str, typer.Option(help="Split that all pairs go to when --val-share is 0.")] = "train",
    val_share: Annotated[float, typer.Option(help="Share of the images whose pairs go to the split val.")] = 0.0,
    source: Annotated[str, typer.Option(help="Name of the data set: data_source becomes critic/NAME.")] = "labelled",
    image_root: ImageRoot = None,
    skip_bad_rows: Annotated[
        bool, typer.Option(help="Leave out rows that cannot be used, instead of stopping.")
    ] = False,
    max_tokens: MaxTokens = 2048,
    concurrency: Concurrency = 64,
    timeout: Timeout = 600.0,
    seed: Annotated[int, typer.Option(help="Seed of sampling, of the choice of pairs, of splits and of orders.")] = 0,
) -> None:
    """Build preference data with a critic, or from known answers: task Parquet, and the same for DPO.

    A critic judges each pair in both orders. With --truth any question set with answers becomes critic data: the policy
    is sampled, and its right responses are paired with its wrong ones.
    """
    try:
        if samples == 1 or samples < 0:
            raise ValueError(f"--samples {samples} makes no pair: take 2 or more")
        if redraw and not samples:
            raise ValueError("--redraw needs --samples: 2 or more")
        if truth and (votes > 1 or temperature > 0):
            raise ValueError("--truth asks no critic: leave out --votes and --temperature (see --policy-temperature)")
        settings = LabelSettings(
            sampling=Sampling(temperature=temperature, max_tokens=max_tokens, n=votes, seed=seed),
            template=template,
            ties=ties,
            verdicts=verdicts,
            prefilled=is_prefilled(prefilled, model),
            min_confidence=min_confidence,
            max_pairs=max_pairs,
            split=split,
            val_share=val_share,
            seed=seed,
        )
        drawing: Sampling | None = None
        if samples:
            drawing = Sampling(temperature=policy_temperature, max_tokens=max_tokens, n=samples, seed=seed)
        with ExitStack() as stack:
            stack.enter_context(claimed(out, "label", RESULTS))
            journal = stack.enter_context(Journal(out / "answers.jsonl"))
            files = expand_inputs(prompts)
            bad = _check(files, image_root or [], out, drawn=drawing is not None, truth=truth, skip=skip_bad_rows)
            client: dict[str, Any] = {"journal": journal, "concurrency": concurrency, "timeout": timeout,
                                      "request": request}  # fmt: skip
            critic = stack.enter_context(connect(model, base_url, key=api_key, **client))
            policy_key = key_for(api_key, base_url, policy_url)
            policy = stack.enter_context(
                connect(policy_model or model, policy_url or base_url, key=policy_key, **client)
            )
            sampled: dict[str, Any] = {
                "policy": policy, "policy_sampling": drawing, "shown": shown, "redraw": redraw,
                "policy_prefilled": is_prefilled(prefilled, policy_model or model),
            }  # fmt: skip
            labeller = Miner(settings, instruct=instruct, **sampled) if truth else Labeller(critic, settings, **sampled)
            stage = _fresh(out / ".label.new")
            dpo = stack.enter_context(DpoWriter(stage / "dpo"))
            judged = stack.enter_context((stage / "judged.jsonl").open("w", encoding="utf-8"))
            left_out = {(lost.file, lost.row) for lost in bad}
            good = (
                item
                for item in read_prompts(files, image_root or [])
                if isinstance(item, LabelPrompt) and (item.file, item.row) not in left_out
            )
            tasks = _tasks(good, labeller, dpo, judged, source=source, critic=model, orders=orders)
            labels = {"labels": "answers"} if truth else {"labels": "critic", "critic": model}
            chosen = {"settings": asdict(settings), **labels, "source": source, "orders": orders}
            rows = _write_tasks(tasks, stage / "tasks", chosen)
            dpo.close()
            judged.close()
            write_json_lines(stage / "rejected.jsonl", map(asdict, [*bad, *labeller.lost]))
            _publish(stage, out)
        counts = labeller.tally.as_dict()
        counts["prompts"] |= {"read": counts["prompts"].get("read", 0) + len(bad), "rejected": len(bad)}
        agreed = sum(labeller.tally.pairs[name] for name in ("labelled", "low_confidence", "split_conflict"))
        compared = agreed + labeller.tally.pairs["inconsistent"]
        report = {
            **chosen,
            "policy": (policy_model or model) if drawing else None,
            "policy_sampling": asdict(drawing) if drawing else None,
            "shown": shown if drawing or truth else "response",
            "request": request_fields(request or ()),
            "counts": counts,
            "swap_consistency": agreed / compared if compared and not truth else None,
            "rows": {"tasks": rows, "dpo": dpo.rows},
            "traffic": {"critic": asdict(critic.traffic), "policy": asdict(policy.traffic)},
            "server": {"critic": critic.facts(), "policy": policy.facts()},
        }
        write_json(out / "label.json", redacted(report))
    except FAULTS as error:
        raise ending(error) from error
    _show(counts)
    if not rows:
        warn(f"no pair was labelled: see {out / 'judged.jsonl'} and {out / 'rejected.jsonl'}")
    tally = labeller.tally
    if cut := tally.judgements["length"]:
        warn(f"{cut} of {tally.judgements.total()} judgements were cut off at the token limit: raise --max-tokens")
    tell([critic, policy])
    failed = tally.pairs["request_failed"] + tally.prompts["sampling-failed"]
    unanswerable = Counter({"pairs": tally.pairs["unanswerable"], "prompts": tally.prompts["sampling-unanswerable"]})
    close(failed, +unanswerable, tally.prompts["read"] + tally.pairs.total(), what="pairs or prompts")
    if not rows:
        raise typer.Exit(1)


def _check(files: list[str], roots: list[str], out: Path, *, drawn: bool, truth: bool, skip: bool) -> list[LostRow]:
    """Read all input once; the rows that cannot be used.

    Raises:
        ValueError: there are such rows and they are not to be skipped, or there is no other.
    """
    bad: list[LostRow] = []
    usable = 0
    answers: dict[str, str] = {}
    for item in read_prompts(files, roots):
        found: LabelPrompt | LostRow | None = item
        if isinstance(item, LabelPrompt) and not item.responses and not drawn:
            remedy = "Add 'responses' (two or more texts) to the row, or sample some with --samples 4."
            found = item.lost("missing-field", "the row has no responses", remedy)
        elif isinstance(item, LabelPrompt) and truth:
            found = _answer_fault(item, answers)
        if isinstance(found, LostRow):
            bad.append(found)
        else:
            usable += 1
    if bad and not skip:
        # The rejects of a finished run belong to its results.
        named = out / ("refused.jsonl" if (out / "label.json").exists() else "rejected.jsonl")
        write_json_lines(named, map(asdict, bad))
        raise ValueError(
            f"{bad[0]} {len(bad)} of {usable + len(bad)} rows cannot be used, all named in {named}: mend them, or leave"
            " them out with --skip-bad-rows"
        )
    if not usable:
        raise ValueError(f"no usable row in {', '.join(files)}: {bad[0] if bad else 'the files are empty'}")
    return bad


def _answer_fault(prompt: LabelPrompt, answers: dict[str, str]) -> LostRow | None:
    """What is wrong with the known answer of a row; `answers` holds those of earlier rows by question."""
    if prompt.answer is None:
        return prompt.lost("missing-field", "the row has no answer", "Give the row an 'answer'.")
    try:
        check_ground_truth(prompt.answer)
    except ValueError as error:
        return prompt.lost("bad-label", str(error), "Give the row a short answer.")
    earlier = answers.setdefault(prompt.content_id, prompt.answer)
    if not same_answer(earlier, prompt.answer):
        detail = f"the answer is {prompt.answer!r}, an earlier row with this question and image has {earlier!r}"
        return prompt.lost("contradiction", detail[:300], "Keep the right one.")
    return None


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
            judged.write(json_line(decision.record()))
            if decision.outcome == "labelled":
                if decision.pair.is_written:
                    dpo.write(decision)
                yield from preference_tasks(
                    [decision.preference(source, critic)],
                    split=decision.split,
                    seed=settings.seed,
                    orders=orders,
                    template=settings.template,
                    ties=settings.ties,
                    start=next(ordinals),
                )


def _write_tasks(tasks: Iterator[PreferenceTask], folder: Path, settings: dict[str, Any]) -> dict[str, int]:
    """Rows per split; none when there was no task."""
    first = next(tasks, None)
    if first is None:
        return {}
    rows: dict[str, int] = write_parquet(chain([first], tasks), folder, settings=settings)["rows"]
    return rows


def _fresh(folder: Path) -> Path:
    """An empty folder for results that are not complete yet; what a killed run left in it is removed."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def _publish(stage: Path, out: Path) -> None:
    """Put complete results in the place of an earlier run's. `label.json` is gone until the caller writes it."""
    with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        former = json.loads((out / "label.json").read_text(encoding="utf-8"))["rows"]["dpo"]
        for path in (out / "dpo" / f"{split}.{form}" for split in former for form in ("jsonl", "parquet")):
            path.unlink(missing_ok=True)
    (out / "label.json").unlink(missing_ok=True)
    with suppress(ValueError):
        write_parquet([], out / "tasks")  # which removes an earlier run's manifest and shards
    for path in sorted(path for path in stage.rglob("*") if path.is_file()):
        target = out / path.relative_to(stage)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    shutil.rmtree(stage)


def _show(counts: dict[str, dict[str, int]]) -> None:
    table = Table("what", "became", "count")
    for what, by_name in counts.items():
        for name, number in by_name.items():
            table.add_row(what, cell(name), str(number))
    console.print(table)
