"""Everything that decides what `prepare` writes; stored in the manifest. Equal settings and input give equal bytes."""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from data_prep.reading.units import UNIT_ROWS
from data_prep.reading.video import MOST_FRAMES
from data_prep.sources.generic import check_columns
from data_prep.sources.labels import parse_label_values
from data_prep.tasks.ordering import Orders
from data_prep.tasks.prompts import TEMPLATES


@dataclass(frozen=True)
class Settings:
    """The choices of one conversion."""

    source: str
    """Name of a source, or FILE.py:FUNCTION."""
    seed: int = 0
    """Decides orders, splits, drawn templates and flips."""
    ties: Literal["keep", "drop"] = "keep"
    """Ties become tasks with the label `tie`, or are dropped. The paper does not say; its row counts fit `keep`."""
    orders: Orders = "balanced"
    """`balanced`: better response first in half of the rows. `both`: each pair twice. `as_is`: as the source lists."""
    min_gap: float = 0.6
    """VLFeedback: least difference of mean ratings (paper: 0.6)."""
    template: str = "critic"
    """Name of a prompt template, or `drawn` for a seeded choice among all."""
    nway: Literal["pairs", "tasks", "rankings"] = "pairs"
    """Ranked responses: all pairs, or one task that asks for the best, or for a ranking of all."""
    twins: bool = False
    """Add the twin of each pair: the same question and responses under other images, labelled as a tie."""
    split: str = "train"
    """Split of all rows when there is no validation share."""
    val_share: float = 0.0
    """Share of the images that go to the split `val`."""
    model: str | None = None
    """Folder or hub id of the model whose processor measures prompts; None: not measured."""
    min_pixels: int | None = None
    """Pixel limit of the processor; None: the processor's own."""
    max_pixels: int | None = None
    """Pixel limit of the processor; None: the processor's own."""
    max_prompt_tokens: int | None = None
    """Longer prompts are rejected."""
    images: Literal["embed", "reference"] = "embed"
    """Images inside the Parquet files, or as files beside them."""
    hashes: bool = True
    """BLAKE3 digest of every image and checksum of every shard; without, splits and duplicates use a quick key."""
    flip_labels: float = 0.0
    """Control experiments: share of the pairs whose label is flipped."""
    limit: int | None = None
    """Read this many records only."""
    unit_rows: int = UNIT_ROWS
    """Records of a shard."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """`generic`: our field -> the set's column or path."""
    label_values: Mapping[str, str] = field(default_factory=dict)
    """Value of the label column -> first, second, tie or skip; needed only where the values allow several meanings."""
    contradictions: Literal["drop", "keep"] = "drop"
    """Pairs that are labelled in more than one way: all left out, or all kept."""
    text_only: bool = False
    """`generic`: take records without any image."""
    frames: int = 0
    """Frames of a video that are taken as images; 0 rejects records about videos."""
    image_roots: tuple[str, ...] = ()
    """Folders or zips that file names are looked up in."""

    def __post_init__(self) -> None:
        if self.template != "drawn" and self.template not in TEMPLATES:
            raise ValueError(f"no template '{self.template}'; choose drawn, {', '.join(TEMPLATES)}")
        if self.twins and (self.ties == "drop" or (self.template != "drawn" and not TEMPLATES[self.template].suffix)):
            raise ValueError("the label of a twin is a tie: --twins needs --ties keep and a template that offers ties")
        if not 0 <= self.val_share < 1 or not 0 <= self.flip_labels <= 1:
            raise ValueError("val_share and flip_labels are shares: from 0 to 1")
        check_columns(self.columns)
        parse_label_values(self.label_values)
        if not re.fullmatch(r"\w[\w.-]*", self.split):
            raise ValueError(
                f"split {self.split!r}: it begins a file's name, so letters, digits, '_', '.' and '-' only"
            )
        if self.unit_rows < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError("unit_rows and limit count records: 1 or more")
        if not 0 <= self.frames <= MOST_FRAMES:
            raise ValueError(f"frames is a number of images, from 0 to {MOST_FRAMES}")
        if self.frames and importlib.util.find_spec("av") is None:
            raise ValueError("--frames decodes videos with PyAV, which is not installed: pip install av")
        if self.max_prompt_tokens is not None and self.model is None:
            raise ValueError("a longest prompt needs the model whose tokens are counted: give --model")

    def recorded(self) -> dict[str, Any]:
        """The settings as the manifest stores them: without places, which differ between machines."""
        stored = asdict(self)
        del stored["image_roots"]
        for name in ("columns", "label_values"):
            stored[name] = dict(sorted(stored[name].items()))
        stored["model"] = None if self.model is None else self.model.rstrip("/").rsplit("/", 1)[-1]
        return stored
