"""From records to rows: the pure part of a conversion, which knows nothing of files, processes or machines."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.checks.overlap import Exclusion
from data_prep.lengths.meter import PromptMeter
from data_prep.reading.inputs import InputError
from data_prep.reading.records import Images, ItemReader, Items, freed, problem_of
from data_prep.settings import Settings
from data_prep.sources.excerpt import EXCERPT, excerpt
from data_prep.sources.labels import Labels
from data_prep.sources.record import Source
from data_prep.sources.reject import Reject, no_twin, repeated, same_responses
from data_prep.tasks.nway import RankedResponses, RankTask
from data_prep.tasks.ordering import Turns, choose_template, is_flipped, orders_of, shuffled_places, split_of
from data_prep.tasks.pairwise import PreferencePair, PreferenceTask
from data_prep.tasks.pointwise import ScoredResponse, ScoreTask
from data_prep.tasks.prompts import get_template, valid_text
from data_prep.tasks.row import Row

PORTION_BYTES = 32 * 2**20
"""Bytes of images, loaded by their names, after which the records so far are made rows before the next are read."""

MOST_NWAY = 16
"""Responses of one N-way task; as many as the reward reads (reward_fns.nway)."""


TWIN = 3
"""In the place of the better response in `Transformed.ids`: a twin, which belongs to the pair before it."""


@dataclass
class Transformed:
    """What became of a stretch of records. Every record is either used or rejected."""

    rows: list[Row] = field(default_factory=list)
    ids: list[tuple[int, str, str, int]] = field(default_factory=list)
    """Of every pair that became rows: ordinal, `pair_id`, and its `judgement`, or `pair_id` and `TWIN`; for finding
    duplicates and contradictions."""
    rejected: list[dict[str, Any]] = field(default_factory=list)
    dropped_pairs: Counter[str] = field(default_factory=Counter)
    """By reason: pairs left out of records that gave other rows."""
    used: int = 0
    """Records that gave at least one row."""
    normalised: Counter[str] = field(default_factory=Counter)
    """By reason: images stored as PNG because other readers would show the bytes that came differently."""

    def add(self, other: "Transformed") -> None:
        """Take over the counts of what came after it, and its rows."""
        self.rows += other.rows
        self.ids += other.ids
        self.rejected += other.rejected
        self.dropped_pairs += other.dropped_pairs
        self.used += other.used
        self.normalised += other.normalised


class _Draft(NamedTuple):
    """A row that still lacks its length."""

    ordinal: int
    pair_id: str
    task: PreferenceTask | ScoreTask | RankTask
    sizes: list[tuple[int, int]]
    twin_of: str = ""
    """Of a twin: the `pair_id` of its pair, whose drafts come right before it."""


class Transform:
    """Turns records of one source into rows.

    Args:
        settings: all choices.
        source: how to read a record.
        meter: measures prompts; None leaves `prompt_tokens` null.
        exclusion: what to keep out (benchmarks); None keeps everything.
        image_folder: where images are put when they are referenced, not embedded.
        labels: what the values of the label column mean; None counts numbers from 1.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        *,
        meter: PromptMeter | None = None,
        exclusion: Exclusion | None = None,
        image_folder: Path | None = None,
        labels: Labels | None = None,
    ) -> None:
        self.settings = settings
        self.source = source
        self.meter = meter
        self.exclusion = exclusion
        # Images of a benchmark are known by their full hashes.
        self._quick_keys = not settings.hashes and exclusion is None
        self._read = ItemReader(settings, source, quick_keys=self._quick_keys, image_folder=image_folder, labels=labels)

    def __call__(
        self, records: Iterable[tuple[int, Any]], base: str = ".", file: str = "", turns: Turns | None = None
    ) -> Transformed:
        """The rows of some records, all at once; see `portions`."""
        outcome = Transformed()
        for portion in self.portions(records, base, file, turns):
            outcome.add(portion)
        return outcome

    def portions(
        self,
        records: Iterable[tuple[int, Any]],
        base: str = ".",
        file: str = "",
        turns: Turns | None = None,
        place: int = 0,
    ) -> Iterator[Transformed]:
        """The rows of some records, as many at a time as have `PORTION_BYTES` of images that had to be loaded.

        Args:
            records: (ordinal, record or `Broken`).
            base: folder of the data file, for images named relative to it.
            file: name of the data file, for the rejects.
            turns: continues the count from one batch of a unit to the next.
            place: ordinal less this is the place of a record in its file.
        """
        turns = turns or Turns()
        read: list[Items] = []
        for ordinal, record in records:
            read.append(self._read(ordinal, record, base))
            if self._read.loaded >= PORTION_BYTES:
                yield self._made(read, turns, file, place)
                read, self._read.loaded = [], 0
        yield self._made(read, turns, file, place)

    def _made(self, read: Sequence[Items], turns: Turns, file: str, place: int) -> Transformed:
        """The rows of records that were read."""
        if not self._quick_keys:
            take_digests(read)
        drafts: list[_Draft] = []
        problems: dict[int, list[Reject]] = {}
        excerpts: dict[int, str] = {}
        for items in read:
            before = len(drafts)
            found = self._draft_all(items, turns, drafts)
            if len(drafts) == before:
                excerpts[items.ordinal] = excerpt(items.record)
                found = found or [Reject("not-pairwise", "the source made no pair of this record")]
            if found:
                problems[items.ordinal] = found
        outcome = self._finish(drafts, problems, excerpts, file, place)
        outcome.normalised, self._read.normalised = self._read.normalised, Counter()
        return outcome

    def _draft_all(self, items: Items, turns: Turns, drafts: list[_Draft]) -> list[Reject]:
        """Add the drafts that a record gives; returns what is wrong with it or with a pair of it."""
        problems: list[Reject] = []
        seen: set[str] = set()
        try:
            for found in items.found:
                if isinstance(found, Reject):
                    problems.append(found)
                    continue
                try:
                    problems += self._draft(*found, items.ordinal, turns, seen, drafts)
                except Reject as problem:
                    problems.append(freed(problem))
        except (MemoryError, InputError):
            raise
        except Exception as error:
            problems.append(problem_of(error))
        return problems

    def _draft(
        self,
        item: PreferencePair | ScoredResponse | RankedResponses,
        images: Images,
        ordinal: int,
        turns: Turns,
        seen: set[str],
        drafts: list[_Draft],
    ) -> list[Reject]:
        """Add the drafts of one item; returns why some of its pairs are left out."""
        settings, sizes = self.settings, images.sizes
        if images.found is not item.images:
            item = replace(item, images=images.found)
        split = self._split(item)
        if self.exclusion is not None and (hit := self.exclusion.hit(item)):
            raise Reject(*hit, "It is in a set given with --exclude.")
        pairs: Sequence[PreferencePair]
        left_out: list[Reject] = []
        if isinstance(item, PreferencePair):
            if any(item.response_images) and item.same_responses:
                raise same_responses("both responses are the same text and images")
            pairs = (item,)
        elif isinstance(item, RankedResponses) and settings.nway == "pairs":
            pairs, n = list(item.pairs()), len(item.responses)
            left_out += [same_responses() for _ in range(n * (n - 1) // 2 - len(pairs))]
        else:
            if item.pair_id in seen:
                raise repeated()
            seen.add(item.pair_id)
            whole: ScoreTask | RankTask
            if isinstance(item, ScoredResponse):
                whole = ScoreTask(item, split, ordinal)
            else:
                whole = self._rank_task(item, split, ordinal)
            drafts.append(_Draft(ordinal, item.pair_id, whole, sizes))
            return left_out
        for pair in pairs:
            if pair.preferred == "tie" and settings.ties == "drop":
                left_out.append(Reject("tie", "a tie, and ties are dropped", "Use --ties keep."))
            elif (
                pair.preferred == "tie" and settings.template != "drawn" and not get_template(settings.template).suffix
            ):
                left_out.append(
                    Reject("tie", f"the template {settings.template} offers no tie", "Use another --template.")
                )
            elif (pair_id := pair.pair_id) in seen:
                left_out.append(repeated())
            else:
                seen.add(pair_id)
                turn = turns.next(split, tie=pair.preferred == "tie")
                chosen = choose_template(settings.template, pair_id, settings.seed)
                flipped = is_flipped(pair_id, settings.seed, settings.flip_labels)
                ties = settings.ties == "keep"
                orders = orders_of(pair, turn, settings.seed, settings.orders)
                for order in orders:
                    task = PreferenceTask(pair, order, split, ordinal, chosen, ties, flipped)
                    drafts.append(_Draft(ordinal, pair_id, task, sizes))
                if not settings.twins:
                    continue
                if (made := turns.twins.of(pair, sizes, split)) is None:
                    left_out.append(no_twin())
                    continue
                twin, twin_sizes = made
                for order in orders:
                    task = PreferenceTask(twin, order, split, ordinal, chosen, ties)
                    drafts.append(_Draft(ordinal, twin.pair_id, task, twin_sizes, pair_id))
        return left_out

    def _rank_task(self, item: RankedResponses, split: str, ordinal: int) -> RankTask:
        ranking = self.settings.nway == "rankings"
        if ranking and len(set(item.ranks)) == 1:
            raise Reject("tie", "all responses share one rank", "Use --nway pairs.")
        if not ranking and len(item.best) > 1:
            raise Reject("tie", "several responses share the best rank", "Use --nway pairs, or rankings.")
        if len(item.responses) > MOST_NWAY:
            raise Reject("not-pairwise", f"{len(item.responses)} responses; at most {MOST_NWAY}", "Use --nway pairs.")
        shown = shuffled_places(item.pair_id, len(item.responses), self.settings.seed)
        return RankTask(item, shown, split, ordinal, ranking)

    def _split(self, item: PreferencePair | ScoredResponse | RankedResponses) -> str:
        settings = self.settings
        if not settings.val_share:
            return settings.split
        keys = [i.blake3 for i in item.images] or [item.question]
        split = split_of(keys, seed=settings.seed, val_share=settings.val_share)
        if split is None:
            raise Reject(
                "split-conflict",
                "its images belong to different splits",
                "Use --val-share 0 and another set for validation.",
            )
        return split

    def _finish(
        self,
        drafts: list[_Draft],
        problems: dict[int, list[Reject]],
        excerpts: dict[int, str],
        file: str,
        place: int,
    ) -> Transformed:
        """Measure all drafts together, make rows of those that are short enough, and account for all records."""
        outcome = Transformed()
        limit = self.settings.max_prompt_tokens
        lengths: Sequence[int | None] = [None] * len(drafts)
        if self.meter is not None and drafts:
            lengths = self.meter.measure([d.task.prompt for d in drafts], [d.sizes for d in drafts])
        last: tuple[int, str] | None = None
        for draft, length in zip(drafts, lengths, strict=True):
            if limit is not None and length is not None and length > limit:
                problem = Reject("overlong", f"the prompt has {length} tokens", f"The limit is {limit} tokens.")
                problems.setdefault(draft.ordinal, []).append(problem)
                excerpts.setdefault(draft.ordinal, valid_text(draft.task.prompt)[:EXCERPT])
                continue
            if draft.twin_of and last not in ((draft.ordinal, draft.twin_of), (draft.ordinal, draft.pair_id)):
                continue  # its pair is left out
            outcome.rows.append(draft.task.flat(length))
            if (key := (draft.ordinal, draft.pair_id)) != last:
                task = draft.task
                judged = (draft.pair_id, TWIN if draft.twin_of else 0)  # a score or a twin contradicts nothing
                if not isinstance(task, ScoreTask) and not draft.twin_of:
                    judged = (task.pair if isinstance(task, PreferenceTask) else task.item).judgement
                outcome.ids.append((*key, *judged))
                last = key
        with_rows = {ordinal for ordinal, *_ in outcome.ids}
        outcome.used = len(with_rows)
        for ordinal, found in sorted(problems.items()):
            if ordinal in with_rows:
                outcome.dropped_pairs.update(p.reason for p in found)
            else:
                first = next((p for p in found if p.reason != no_twin().reason), found[0])
                outcome.rejected.append(
                    {
                        "row": ordinal,
                        "file": file,
                        "row_of_file": ordinal - place,
                        "reason": first.reason,
                        "detail": valid_text(first.detail),
                        "remedy": first.remedy,
                        "record": excerpts.get(ordinal, ""),
                    }
                )
        return outcome


def take_digests(read: Iterable[Items]) -> None:
    """Hash all images, which remember their digests.

    All together: every digest releases the GIL, and two threads that alternate record by record would evict each
    other's objects from the CPU cache.
    """
    for items in read:
        for found in items.found:
            if not isinstance(found, Reject):
                for image in found[1].found:
                    image.key = image.blake3
