"""Records in, rows out: the pure heart of the conversion, the same on one core and on a hundred machines."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.excerpt import EXCERPT, excerpt
from data_prep.images import BadPicture, Header, check_whole, read_header
from data_prep.inputs import InputError
from data_prep.length import PromptMeter
from data_prep.ordering import Turns, choose_wording, is_flipped, orders_of, seeded_fraction, split_of
from data_prep.overlap import Exclusion
from data_prep.picture_store import PictureStore
from data_prep.prompts import get_wording, valid_text
from data_prep.rank_task import RankedResponses, RankTask
from data_prep.readers import Broken
from data_prep.reject import Reject, repeated, same_responses
from data_prep.row import Picture, Row, quick_key
from data_prep.score_task import ScoredResponse, ScoreTask
from data_prep.settings import Settings
from data_prep.sources.record import Options, Source
from data_prep.task import PreferencePair, PreferenceTask
from data_prep.writer import temporary_name

PORTION_BYTES = 32 * 2**20
"""Bytes of pictures, loaded by their names, after which the records so far are made rows before the next are read."""

MOST_NWAY = 16
"""Responses of one N-way task; as many as the reward reads (reward_fns.nway)."""


@dataclass
class Outcome:
    """What became of a stretch of records. Every record is either used or rejected."""

    rows: list[Row] = field(default_factory=list)
    ids: list[tuple[int, str]] = field(default_factory=list)
    """(ordinal, pair_id) of every pair that became rows, for finding duplicates."""
    rejected: list[dict[str, Any]] = field(default_factory=list)
    dropped_pairs: Counter[str] = field(default_factory=Counter)
    """By reason: pairs left out of records that gave other rows."""
    used: int = 0
    """Records that gave at least one row."""

    def add(self, other: "Outcome") -> None:
        """Take over the counts of what came after it, and its rows."""
        self.rows += other.rows
        self.ids += other.ids
        self.rejected += other.rejected
        self.dropped_pairs += other.dropped_pairs
        self.used += other.used


class _Draft(NamedTuple):
    """A row that still lacks its length."""

    ordinal: int
    pair_id: str
    task: PreferenceTask | ScoreTask | RankTask
    sizes: list[tuple[int, int]]


class _Pictures(NamedTuple):
    """The pictures of a record, looked up once for all of its pairs."""

    given: tuple[Picture, ...]
    found: tuple[Picture, ...]
    """With their bytes; the very same ones where nothing had to be done."""
    sizes: list[tuple[int, int]]


class Transform:
    """Turns records of one source into rows.

    Args:
        settings: all choices.
        source: how to read a record.
        meter: measures prompts; None leaves `prompt_tokens` null.
        exclusion: what to keep out (benchmarks); None keeps everything.
        picture_folder: where pictures are put when they are referenced, not embedded.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        *,
        meter: PromptMeter | None = None,
        exclusion: Exclusion | None = None,
        picture_folder: Path | None = None,
    ) -> None:
        self.settings = settings
        self.source = source
        self.meter = meter
        self.exclusion = exclusion
        self.picture_folder = picture_folder
        self._options = Options(min_gap=settings.min_gap, columns=settings.columns)
        self._store = PictureStore(settings.image_roots)
        self._loaded = 0
        """Bytes of pictures that were loaded since the last portion."""
        # Pictures of a benchmark are known by their full hashes.
        self._quick_keys = not settings.hashes and exclusion is None

    def __call__(
        self, records: Iterable[tuple[int, Any]], base: str = ".", file: str = "", turns: Turns | None = None
    ) -> Outcome:
        """The rows of some records, all at once; see `portions`."""
        outcome = Outcome()
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
    ) -> Iterator[Outcome]:
        """The rows of some records, as many at a time as have `PORTION_BYTES` of pictures that had to be loaded.

        Args:
            records: (ordinal, record or `Broken`).
            base: folder of the data file, for pictures named relative to it.
            file: name of the data file, for the rejects.
            turns: goes on counting from one batch of a unit to the next.
            place: ordinal less this is the place of a record in its file.
        """
        turns = turns or Turns()
        drafts: list[_Draft] = []
        problems: dict[int, list[Reject]] = {}
        excerpts: dict[int, str] = {}
        for ordinal, record in records:
            before = len(drafts)
            self._convert(ordinal, record, base, turns, drafts, problems)
            if len(drafts) == before:
                excerpts[ordinal] = excerpt(record)
            if self._loaded >= PORTION_BYTES:
                yield self._finish(drafts, problems, excerpts, file, place)
                drafts, problems, excerpts, self._loaded = [], {}, {}, 0
        yield self._finish(drafts, problems, excerpts, file, place)

    def _convert(
        self,
        ordinal: int,
        record: Any,
        base: str,
        turns: Turns,
        drafts: list[_Draft],
        problems: dict[int, list[Reject]],
    ) -> None:
        """Add the drafts that a record gives, and what is wrong with it or with a pair of it."""
        before = len(drafts)
        pictures: _Pictures | None = None
        seen: set[str] = set()
        try:
            if isinstance(record, Broken):
                raise Reject(record.reason, record.detail, record.remedy)
            if type(record) is not dict and not isinstance(record, Mapping):
                raise Reject("wrong-type", f"the record is a {type(record).__name__}, not an object")
            for item in self.source.convert(record, self._options):
                if isinstance(item, Reject):
                    _add(problems, ordinal, item)
                    continue
                try:
                    if self.source.own:
                        _check(item)
                    if pictures is None or pictures.given is not item.images:
                        pictures = self._pictures(item.images, base)
                    for problem in self._draft(item, ordinal, pictures, turns, seen, drafts):
                        _add(problems, ordinal, problem)
                except Reject as problem:
                    _add(problems, ordinal, problem)
            if len(drafts) == before and ordinal not in problems:
                raise Reject("not-pairwise", "the source made no pair of this record")
        except Reject as problem:
            _add(problems, ordinal, problem)
        except (MemoryError, InputError):
            raise
        except Exception as error:
            # A shape no source foresaw. The record is lost, the run is not, and the reason says whom to blame.
            detail = f"{type(error).__name__}: {error}"[:300]
            _add(problems, ordinal, Reject("unforeseen", detail, "Report the shape of this record."))

    def _draft(
        self,
        item: PreferencePair | ScoredResponse | RankedResponses,
        ordinal: int,
        pictures: _Pictures,
        turns: Turns,
        seen: set[str],
        drafts: list[_Draft],
    ) -> list[Reject]:
        """Add the rows to be of one item; returns what its pairs that were left out are left out for."""
        settings, sizes = self.settings, pictures.sizes
        if pictures.found is not item.images:
            item = replace(item, images=pictures.found)
        split = self._split(item)
        if self.exclusion is not None and (hit := self.exclusion.hit(item)):
            raise Reject(*hit, "It stands in a set given with --exclude.")
        pairs: Sequence[PreferencePair]
        left_out: list[Reject] = []
        if isinstance(item, PreferencePair):
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
            elif pair.preferred == "tie" and settings.wording != "drawn" and not get_wording(settings.wording).suffix:
                left_out.append(
                    Reject("tie", f"the wording {settings.wording} offers no tie", "Use another --wording.")
                )
            elif (pair_id := pair.pair_id) in seen:
                left_out.append(repeated())
            else:
                seen.add(pair_id)
                turn = turns.next(split, tie=pair.preferred == "tie")
                chosen = choose_wording(settings.wording, pair_id, settings.seed)
                flipped = is_flipped(pair_id, settings.seed, settings.flip_labels)
                ties = settings.ties == "keep"
                for order in orders_of(pair, turn, settings.seed, settings.orders):
                    task = PreferenceTask(pair, order, split, ordinal, chosen, ties, flipped)
                    drafts.append(_Draft(ordinal, pair_id, task, sizes))
        return left_out

    def _rank_task(self, item: RankedResponses, split: str, ordinal: int) -> RankTask:
        if len(item.best) > 1:
            raise Reject("tie", "several responses share the best rank", "Use --nway pairs.")
        if len(item.responses) > MOST_NWAY:
            raise Reject("not-pairwise", f"{len(item.responses)} responses; at most {MOST_NWAY}", "Use --nway pairs.")
        seed = self.settings.seed
        places = range(len(item.responses))
        shares = [seeded_fraction(seed, "nway", item.pair_id, i) for i in places]
        return RankTask(item, tuple(sorted(places, key=shares.__getitem__)), split, ordinal)

    def _pictures(self, images: tuple[Picture, ...], base: str) -> _Pictures:
        """The pictures with their bytes, and their sizes."""
        found: list[Picture] = []
        sizes: list[tuple[int, int]] = []
        same = True
        for image in images:
            try:
                data = image.data
                if data is None:
                    data = self._store.load(image.path or "", base)
                    self._loaded += len(data)
                header = read_header(data)
                check_whole(data, header)
            except BadPicture as problem:
                raise Reject(problem.reason, str(problem), "Fetch the picture again, or leave the row out.") from None
            path = image.path and valid_text(image.path)
            picture = image if data is image.data and path == image.path else Picture(data, path)
            if self._quick_keys:
                picture.key = quick_key(data)
            if self.picture_folder is not None:
                picture = self._as_file(picture, header)
            same = same and picture is image
            found.append(picture)
            sizes.append((header.width, header.height))
        return _Pictures(images, images if same else tuple(found), sizes)

    def _as_file(self, picture: Picture, header: Header) -> Picture:
        """The same picture as a file named by its content."""
        assert self.picture_folder is not None
        assert picture.data is not None
        name = picture.blake3.lstrip("~")
        path = self.picture_folder / name[:2] / f"{name}.{header.format.lower()}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = temporary_name(path)
            temporary.write_bytes(picture.data)
            os.replace(temporary, path)
        return Picture(None, str(path.absolute()), picture.blake3)

    def _split(self, item: PreferencePair | ScoredResponse | RankedResponses) -> str:
        settings = self.settings
        if not settings.val_share:
            return settings.split
        keys = [i.blake3 for i in item.images] or [item.question]
        split = split_of(keys, seed=settings.seed, val_share=settings.val_share)
        if split is None:
            raise Reject(
                "split-conflict",
                "its pictures belong to different splits",
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
    ) -> Outcome:
        """Measure all drafts together, make rows of those that are short enough, and account for all records."""
        outcome = Outcome()
        limit = self.settings.max_prompt_tokens
        lengths: Sequence[int | None] = [None] * len(drafts)
        if self.meter is not None and drafts:
            lengths = self.meter.measure([d.task.prompt for d in drafts], [d.sizes for d in drafts])
        last: tuple[int, str] | None = None
        for draft, length in zip(drafts, lengths, strict=True):
            if limit is not None and length is not None and length > limit:
                problem = Reject("overlong", f"the prompt has {length} tokens", f"The limit is {limit} tokens.")
                _add(problems, draft.ordinal, problem)
                excerpts.setdefault(draft.ordinal, valid_text(draft.task.prompt)[:EXCERPT])
                continue
            outcome.rows.append(draft.task.flat(length))
            if (key := (draft.ordinal, draft.pair_id)) != last:
                outcome.ids.append(key)
                last = key
        with_rows = {ordinal for ordinal, _ in outcome.ids}
        outcome.used = len(with_rows)
        for ordinal, found in sorted(problems.items()):
            if ordinal in with_rows:
                outcome.dropped_pairs.update(p.reason for p in found)
            else:
                first = found[0]
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


def _check(item: Any) -> None:
    """Refuse what would become a wrong row without anyone noticing; a source of one's own may yield anything.

    Raises:
        Reject: `unknown-label` or `wrong-type`.
    """
    if not isinstance(item, PreferencePair):
        return
    better = item.preferred
    if not (better == "tie" or (type(better) is int and better in (0, 1))):
        remedy = "The source must yield 0 (the first response), 1 (the second) or 'tie'."
        raise Reject("unknown-label", f"the preferred response is {better!r:.60}", remedy)
    texts = (item.question, *item.responses)
    if len(texts) != 3 or any(type(text) is not str for text in texts):
        raise Reject("wrong-type", "a pair is a question and two responses, all of them text")
    if item.responses[0].strip() == item.responses[1].strip():
        raise same_responses()


def _add(problems: dict[int, list[Reject]], ordinal: int, problem: Reject) -> None:
    # Without its traceback, whose frames would keep the record and its pictures until the next collection.
    problems.setdefault(ordinal, []).append(problem.with_traceback(None))
