"""From a record to the items that its source makes of it, with their images."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.files import replacing
from data_prep.reading.image_store import ImageStore
from data_prep.reading.images import BadImage, check_whole, normalised, read_header
from data_prep.reading.inputs import InputError
from data_prep.reading.units import Broken
from data_prep.reading.video import frames_of
from data_prep.settings import Settings
from data_prep.sources.labels import Labels
from data_prep.sources.record import Options, Source
from data_prep.sources.reject import Reject, same_responses
from data_prep.tasks.nway import RankedResponses
from data_prep.tasks.pairwise import PreferencePair
from data_prep.tasks.pointwise import ScoredResponse
from data_prep.tasks.prompts import MARKER, valid_text
from data_prep.tasks.row import Image, quick_key


class Images(NamedTuple):
    """The images of a record, loaded once for all of its items."""

    given: Sequence[Image]
    found: tuple[Image, ...]
    """With their bytes; the same objects if nothing changed."""
    sizes: list[tuple[int, int]]


@dataclass
class Items:
    """The items of one record."""

    ordinal: int
    record: Any
    found: list[tuple[PreferencePair | ScoredResponse | RankedResponses, Images] | Reject] = field(default_factory=list)
    """Items with their images, or the reasons why they are left out."""


class ItemReader:
    """Converts records with a source, and loads and checks their images.

    Args:
        quick_keys: give every image its quick key, so that it is never hashed in full.
        image_folder: where images are written when they are referenced instead of embedded.
        labels: the meaning of the label column's values.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        *,
        quick_keys: bool = False,
        image_folder: Path | None = None,
        labels: Labels | None = None,
    ) -> None:
        self.source = source
        self.loaded = 0
        """Bytes of images that were loaded by name, since this was last set to 0."""
        self.normalised: Counter[str] = Counter()
        """Images whose bytes were changed, by reason of `normalised`, since this was last cleared."""
        self._quick_keys = quick_keys
        self._image_folder = image_folder
        self._options = options_of(settings, labels)
        self._store = ImageStore(settings.image_roots)

    def __call__(self, ordinal: int, record: Any, base: str) -> Items:
        """The items of a record.

        Args:
            base: folder of the data file, for images named relative to it.
        """
        items = Items(ordinal, record)
        images: Images | None = None
        try:
            if isinstance(record, Broken):
                raise Reject(record.reason, record.detail, record.remedy)
            if type(record) is not dict and not isinstance(record, Mapping):
                raise Reject("wrong-type", f"the record is a {type(record).__name__}, not an object")
            for item in self.source.convert(record, self._options):
                if isinstance(item, Reject):
                    items.found.append(freed(item))
                    continue
                try:
                    if self.source.own:
                        _check(item)
                    if images is None or images.given is not item.images:
                        images = self._images(item.images, base)
                    items.found.append((item, images))
                except Reject as problem:
                    items.found.append(freed(problem))
        except (MemoryError, InputError):
            raise
        except Exception as error:
            items.found.append(problem_of(error))
        return items

    def _images(self, images: Sequence[Image], base: str) -> Images:
        """The images with their bytes, and their sizes."""
        found: list[Image] = []
        sizes: list[tuple[int, int]] = []
        same = not any(image.frames for image in images)
        for image in self._files(images, base):
            try:
                data = image.data
                if data is None:
                    data = self._store.load(image.path or "", base)
                    self.loaded += len(data)
                header = read_header(data)
                check_whole(data, header)
                data, reason = normalised(data, header)
            except BadImage as problem:
                raise Reject(problem.reason, str(problem), "Fetch the image again, or leave the row out.") from None
            if reason is not None:
                self.normalised[reason] += 1
            path = image.path and valid_text(image.path)
            kept = image if data is image.data and path == image.path else Image(data, path)
            if self._quick_keys:
                kept.key = quick_key(data)
            if self._image_folder is not None:
                kept = _as_file(kept, "png" if reason else header.format.lower(), self._image_folder)
            same = same and kept is image
            found.append(kept)
            sizes.append((header.width, header.height))
        return Images(images, tuple(images if same else found), sizes)

    def _files(self, images: Sequence[Image], base: str) -> Iterator[Image]:
        """The images, with the frames of each video in its place."""
        for image in images:
            if not image.frames:
                yield image
                continue
            try:
                data = image.data if image.data is not None else self._store.load(image.path or "", base)
                frames = frames_of(bytes(data), image.frames)
            except BadImage as problem:
                raise Reject(problem.reason, str(problem), "Write the video again, or leave the row out.") from None
            self.loaded += sum(map(len, frames))
            yield from (Image(frame, f"{image.path}#{n}.jpg") for n, frame in enumerate(frames))


def options_of(settings: Settings, labels: Labels | None = None) -> Options:
    """The settings that a source receives."""
    options = Options(
        min_gap=settings.min_gap, columns=settings.columns, text_only=settings.text_only, frames=settings.frames
    )
    return options if labels is None else replace(options, labels=labels)


def _as_file(image: Image, suffix: str, folder: Path) -> Image:
    """The same image as a file named by its content.

    Raises:
        InputError: the file cannot be written, for which the record must not be rejected.
    """
    assert image.data is not None
    name = image.blake3.lstrip("~")
    path = folder / name[:2] / f"{name}.{suffix}"
    if not path.exists():
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(image.data)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error.strerror}); repair that and run the same command again, which"
                " resumes from here"
            ) from error
    return Image(None, str(path.absolute()), image.blake3)


def _check(item: Any) -> None:
    """Refuse items that would silently become wrong rows; a user's own source may yield anything.

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
    first, second = item.response_images
    if min(first, second) < 0 or first + second > len(item.images):
        raise Reject("image-count", f"response_images is {item.response_images} of {len(item.images)} images")
    for text, n in zip(item.responses, item.response_images, strict=True):
        if n and text.count(MARKER) not in (0, n):
            raise Reject("image-count", f"a response has {text.count(MARKER)} image markers and {n} images")
    if not (first or second) and item.responses[0].strip() == item.responses[1].strip():
        raise same_responses()


def problem_of(error: Exception) -> Reject:
    """Why a record is rejected: the reason of its source, or `unforeseen`, which does not stop the run either."""
    if isinstance(error, Reject):
        return freed(error)
    detail = f"{type(error).__name__}: {error}"[:300]
    return Reject("unforeseen", detail, "Report the shape of this record.")


def freed(problem: Reject) -> Reject:
    """Without its traceback, whose frames would keep the record and its images in memory."""
    return problem.with_traceback(None)
