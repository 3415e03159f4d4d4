"""Token counts without decoding must equal those of the real processors, whatever the shape of the image."""

import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep import convert as engine
from data_prep.lengths.meter import MeterError, ProcessorFacts, PromptMeter, real_length
from data_prep.lengths.processor import meter_of_model
from data_prep.settings import Settings
from data_prep.sources.registry import load_source
from data_prep.transform import Transform
from tests.data_prep.made_images import make_image
from tests.data_prep.made_processors import make_processor
from tests.data_prep.made_records import GOOD

# The paper's pixel limits for Qwen2.5-VL, the processor's own, and narrow ones that make every image change size.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2_vl": ("qwen2_vl", {}),
    "qwen2_5_vl paper": ("qwen2_5_vl", {"min_pixels": 262_144, "max_pixels": 4_194_304}),
    "qwen2_5_vl narrow": ("qwen2_5_vl", {"min_pixels": 3_136, "max_pixels": 12_544}),
    "qwen2_5_vl patch 16": ("qwen2_5_vl", {"patch_size": 16, "merge_size": 2}),
}


@lru_cache
def meter(name: str) -> PromptMeter:
    family, options = FAMILIES[name]
    return PromptMeter(make_processor(family, **options))


def shapes(n: int) -> list[tuple[int, int]]:
    """Sizes of all kinds: even ones, sides near a multiple of a patch, slivers up to 200 to 1, single pixels."""
    rng = np.random.default_rng(7)
    fixed = [
        (1, 1),
        (1, 200),
        (200, 1),
        (2, 400),
        (399, 2),
        (13, 14),
        (14, 13),
        (28, 28),
        (42, 42),
        (41, 43),
        (640, 480),
    ]
    drawn = [tuple(int(v) for v in np.exp(rng.uniform(0, np.log(900), 2))) for _ in range(20 * n)]
    usable = [s for s in drawn if max(s) <= 200 * min(s)]
    slivers = [
        (int(s), int(s * r)) for s, r in zip(rng.integers(1, 6, n // 5), rng.uniform(50, 200, n // 5), strict=True)
    ]
    return (fixed + slivers + usable)[:n]  # type: ignore[return-value]


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.bench)])
@pytest.mark.parametrize("name", FAMILIES)
def test_exact_on_images_of_all_shapes(name: str, count: int) -> None:
    found = meter(name)
    sizes = shapes(count)
    prompts = [f"<image>\nImage {i}: which of the two responses is better?" for i in range(len(sizes))]
    ours = found.measure(prompts, [[s] for s in sizes])
    real = [real_length(found.processor, p, [Image.new("RGB", s)]) for p, s in zip(prompts, sizes, strict=True)]
    assert ours == real


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("prompt", "sizes"),
    [
        ("no image at all", []),
        ("<image>", [(50, 60)]),
        ("<image> \n leading and trailing blanks \n ", [(50, 60)]),
        ("<image><image>two images", [(50, 60), (300, 20)]),
        ("one <image> inside, one at the end<image>", [(50, 60), (300, 20)]),
        ("<image>é 漢字 \U0001f600 \x00 {{ braces }} {% raw %}", [(50, 60)]),
    ],
)
def test_exact_on_texts(name: str, prompt: str, sizes: list[tuple[int, int]]) -> None:
    found = meter(name)
    images = [Image.new("RGB", s) for s in sizes]
    assert found.measure([prompt], [sizes]) == [real_length(found.processor, prompt, images)]


def test_lengths_reach_the_rows_and_the_limit_counts(tmp_path: Path) -> None:
    for n in range(4):
        (tmp_path / f"{n}.jpg").write_bytes(make_image(n, (100 * (n + 1), 90)))
    records = list(enumerate(GOOD["mm_rlhf"](n) for n in range(4)))
    found = meter("qwen2_5_vl narrow")
    roots = (str(tmp_path),)
    source = load_source("mm_rlhf")
    outcome = Transform(Settings("mm_rlhf", image_roots=roots), source, meter=found)(records)
    lengths = [row.prompt_tokens or 0 for row in outcome.rows]
    for row, length in zip(outcome.rows, lengths, strict=True):
        from data_prep.reading.images import open_image

        image = open_image(row.images[0].data or b"")
        assert length == real_length(found.processor, row.prompt, [image])
    limit = sorted(lengths)[1]
    strict = Settings("mm_rlhf", image_roots=roots, model="x", max_prompt_tokens=limit)
    outcome = Transform(strict, source, meter=found)(records)
    assert len(outcome.rows) == sum(length <= limit for length in lengths) < 4
    assert {r["reason"] for r in outcome.rejected} == {"overlong"}


def test_a_rule_that_does_not_fit_is_noticed() -> None:
    processor = make_processor("qwen2_5_vl")
    processor.image_processor.merge_size = 1  # tokens are merged by the processor, not by this
    processor.image_processor.patch_size = 28
    PromptMeter(processor)
    processor.apply_chat_template = lambda *a, **k: "the template lost the image"
    with pytest.raises((MeterError, ValueError)):
        PromptMeter(processor)


def test_unknown_family_is_refused() -> None:
    processor = make_processor("qwen2_vl")

    class OtherImageProcessor:
        patch_size = 14

    processor.image_processor = OtherImageProcessor()
    with pytest.raises(MeterError, match="OtherImageProcessor"):
        PromptMeter(processor)


PROMPTS = [
    ("<image>one image", [(50, 60)]),
    ("no image", []),
    ("one <image> inside", [(50, 60)]),  # no frame fits: the template is run by the real processor
    ("<image>" * 10 + "more images than there are frames", [(50, 60)] * 10),
]


def test_facts_read_elsewhere_give_the_same_lengths(tmp_path: Path) -> None:
    processor = make_processor("qwen2_5_vl")
    processor.save_pretrained(tmp_path)
    here = PromptMeter(processor, verl_resize=True)
    there = meter_of_model(str(tmp_path))
    assert there.facts == here.facts == ProcessorFacts.from_json(here.facts.to_json())
    prompts, sizes = zip(*PROMPTS, strict=True)
    assert there.measure(prompts, sizes) == here.measure(prompts, sizes)


def test_measuring_loads_no_model_library() -> None:
    found = meter("qwen2_vl")
    code = (
        "import sys\nimport data_prep.lengths.processor\n"
        "from data_prep.lengths.meter import ProcessorFacts, PromptMeter\n"
        "meter = PromptMeter.from_facts(ProcessorFacts.from_json(sys.stdin.read()))\n"
        "print(meter.measure(['<image>one image'], [[(50, 60)]]))\n"
        "assert not {'transformers', 'torch'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code]
    root, facts = Path(__file__).parents[3], found.facts.to_json()
    done = subprocess.run(command, cwd=root, input=facts, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(found.measure(["<image>one image"], [[(50, 60)]]))


def test_a_model_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="cannot be used"):
        meter_of_model(str(tmp_path))


def test_lengths_that_take_long_are_told_and_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD["rlaif_v"](n) for n in range(4)]), source)
    lengths, told = {}, {}
    for name, reason in (("fast", None), ("slow", "it gives other tokens for 'x'")):
        facts = replace(meter("qwen2_vl").facts, slow=reason)
        monkeypatch.setattr(engine, "facts_of_model", lambda *_, facts=facts: facts)
        said: list[str] = []
        manifest = engine.convert([str(source)], tmp_path / name, Settings("rlaif_v", model="m"), tell=said.append)
        shards = [pq.read_table(tmp_path / name / s["file"]) for s in manifest["shards"]]
        lengths[name] = [row["prompt_tokens"] for shard in shards for row in shard["extra_info"].to_pylist()]
        told[name] = said
    assert lengths["fast"] == lengths["slow"]
    assert all(lengths["fast"])
    assert told["fast"] == []
    assert "other tokens for 'x'" in told["slow"][0]
