"""Responses that hold images, prompts with several: each set in the shapes in which it is published."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.checks.rows import check_parquet
from data_prep.checks.show import html_sheet, sample_rows
from data_prep.checks.verl import validate
from data_prep.convert import convert
from data_prep.settings import Settings
from data_prep.sources.multimodal_rewardbench_2 import TASKS
from data_prep.sources.record import Options
from data_prep.sources.registry import load_source
from data_prep.sources.reject import Reject
from data_prep.tasks.pairwise import PreferencePair
from tests.data_prep.made_images import make_image


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for n in range(8):
        (folder / f"{n}.jpg").write_bytes(make_image(n))
    return folder


def columns(source: str, prompt: tuple[str, str], a: tuple[str, str], b: tuple[str, str]) -> dict[str, Any]:
    """A row of MMRB2 as re-published; of each part the text and the digits of its images."""
    parts = {"prompt": prompt, "response_a": a, "response_b": b}
    row: dict[str, Any] = {f"{name}_text": text for name, (text, _) in parts.items()}
    row |= {f"{name}_images": [{"bytes": make_image(int(n)), "path": None} for n in images]
            for name, (_, images) in parts.items()}  # fmt: skip
    return {"pair_id": f"{source}_1", "prompt_source": source, "chosen": "B", "human_annotations": "[1, 2, 1]",
            "response_a_model": "x", "response_b_model": "y", "prompt_metadata": "{}", **row}  # fmt: skip


MMRB2 = {
    "t2i": columns("wise", ("Draw a dog.", ""), ("", "1"), ("<image_0>", "2")),
    "edit": columns("emu-edit", ("<image_0>\nMake it a cat.", "0"), ("<image_0>", "1"), ("", "2")),
    "interleaved": columns(
        "isgbench",
        ("Continue <image_0> and <image_1>.", "01"),
        ("First <image_0>, then <image_1>.", "23"),
        ("No images, only <image>.", ""),
    ),
    "reasoning": columns("muirbench", ("Which, <image_1> or <image_0>?", "01"), ("The 1st.", ""), ("The 2nd.", "")),
}

SHOWN = {
    "t2i": ("Question:\nDraw a dog.", "1:\n<image>", "2:\n<image>"),
    "edit": ("Question:\n<image>\nMake it a cat.", "1:\n<image>", "2:\n<image>"),
    "interleaved": (
        "Question:\nContinue <image> and <image>.",
        "1:\nFirst <image>, then <image>.",
        "2:\nNo images, only ‹image›.",
    ),
    "reasoning": ("Question:\nWhich, <image> or <image>?", "1:\nThe 1st.", "2:\nThe 2nd."),
}

ORDER = {"t2i": "12", "edit": "012", "interleaved": "0123", "reasoning": "10"}
"""Digits of the images in the order in which the prompt shows them."""


def as_released(row: dict[str, Any]) -> dict[str, Any]:
    """The same pair as the release builds it: parts, and files for images."""
    digit = {make_image(n): n for n in range(8)}

    def parts(name: str) -> list[list[str]]:
        images = [f"{digit[image['bytes']]}.jpg" for image in row[f"{name}_images"]]
        found, text = [], row[f"{name}_text"]
        for n in sorted(range(len(images)), key=lambda n: text.find(f"<image_{n}>")):
            before, place, after = text.partition(f"<image_{n}>")
            found += [["text", before.strip()]] if place and before.strip() else []
            found.append(["image", images[n]])
            text = after if place else text
        return found + ([["text", text.strip()]] if text.strip() else [])

    responses = {f"response_{s}": {"model_name": s, "response_content": parts(f"response_{s}")} for s in "ab"}
    return {"id": row["pair_id"], "prompt_content": parts("prompt"), "prompt_source": row["prompt_source"],
            "prompt_metadata": {}, "chosen": row["chosen"], "human_annotations": [1, 2, 1], **responses}  # fmt: skip


def pair_of(name: str, record: dict[str, Any], **options: Any) -> PreferencePair:
    (item,) = load_source(name).convert(record, Options(**options))
    assert isinstance(item, PreferencePair)
    return item


def reason_of(name: str, record: dict[str, Any]) -> str:
    with pytest.raises(Reject) as problem:
        list(load_source(name).convert(record, Options()))
    return problem.value.reason


@pytest.mark.parametrize("shape", ["columns", "release"])
@pytest.mark.parametrize("orders", ["as_is", "both", "balanced"])
def test_mmrb2_becomes_valid_tasks(shape: str, orders: str, root: Path, tmp_path: Path) -> None:
    if shape == "columns":
        path = tmp_path / "in.parquet"
        pq.write_table(pa.Table.from_pylist(list(MMRB2.values())), path)
    else:
        path = tmp_path / "in.json"
        path.write_text(json.dumps({"pairs": [as_released(row) for row in MMRB2.values()]}, indent=2))
    settings = Settings("multimodal_rewardbench_2", orders=orders, image_roots=(str(root),))  # type: ignore[arg-type]
    manifest = convert([str(path)], tmp_path / "out", settings)
    assert manifest["records"] == {"in": 4, "used": 4, "rejected": 0}
    assert check_parquet(tmp_path / "out").ok
    table = pq.read_table(tmp_path / "out" / "train-00000.parquet").to_pylist()
    if orders == "as_is":
        assert {json.loads(row["extra_info"]["meta"])["category"] for row in table} == set(TASKS)
        for row, task in zip(table, MMRB2, strict=True):
            prompt, digits = row["prompt"][0]["content"].replace("\n<image> and", " <image> and"), ORDER[task]
            if shape == "columns":
                assert [prompt.count(part) for part in SHOWN[task]] == [1, 1, 1]
            assert [image["bytes"] for image in row["images"]] == [make_image(int(n)) for n in digits]
            assert row["reward_model"]["ground_truth"] == "2"
    labels = [row["reward_model"]["ground_truth"] for row in table]
    assert orders == "as_is" or labels.count("1") == labels.count("2")
    for row in table:  # whatever the order, a response keeps its images
        counts = row["extra_info"]["response_images"] or [0, 0]
        assert [row["extra_info"][f"response_{n}"].count("<image>") for n in (1, 2)] == [
            count or ("only <image>" in row["extra_info"][f"response_{n}"]) for n, count in enumerate(counts, 1)
        ]


def test_a_page_shows_each_image_with_its_response_and_verl_loads_the_rows(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([MMRB2["interleaved"]]), tmp_path / "in.parquet")
    convert([str(tmp_path / "in.parquet")], tmp_path / "out", Settings("multimodal_rewardbench_2", orders="both"))
    assert validate([tmp_path / "out"]).ok
    html_sheet(sample_rows([tmp_path / "out"], 2), tmp_path / "page.html")
    articles = (tmp_path / "page.html").read_text().split("<article>")[1:]
    for article in articles:
        head, first, second = article.partition("<details>")[0].split("Response ")
        assert head.count("<img") == 2
        assert [part.count("<img") for part in (first, second)] == ([2, 0] if "First " in first else [0, 2])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"response_a_text": "<image_0> <image_1>"}, "image-count"),
        ({"response_a_text": "<image_3>"}, "image-count"),
        ({"response_a_images": []}, "image-count"),
        ({"response_a_images": [], "response_a_text": ""}, "empty-text"),
        ({"response_b_images": [{"bytes": make_image(1), "path": None}]}, "same-responses"),
        ({"prompt_text": None}, "missing-field"),
        ({"prompt_images": [{"bytes": None, "path": None}]}, "image-missing"),
        ({"chosen": "C"}, "unknown-label"),
    ],
)
def test_what_is_wrong_with_a_pair_of_mmrb2(changes: dict[str, Any], reason: str) -> None:
    row = {**MMRB2["t2i"], "response_a_text": "<image_0>", **changes}
    assert reason_of("multimodal_rewardbench_2", row) == reason


def test_a_file_of_the_release_without_its_prompts_is_named() -> None:
    row = {k: v for k, v in as_released(MMRB2["t2i"]).items() if k != "prompt_content"}
    assert reason_of("multimodal_rewardbench_2", row) == "missing-field"
    row = {**as_released(MMRB2["t2i"]), "prompt_content": [["video", "a.mp4"]]}
    assert reason_of("multimodal_rewardbench_2", row) == "unshown-part"


EDITED = {"prompt": "Make it a cat.", "path_src": "0.jpg", "path1": "1.jpg", "path2": "2.jpg", "tie_case": False}
EDIT_VOTE = {
    "source_prompt": "a dog",
    "target_prompt": "a cat",
    "instruct_prompt": "Make it a cat.",
    "source_image": {"bytes": make_image(0), "path": None},
    "left_output_image": {"bytes": make_image(1), "path": None},
    "right_output_image": {"bytes": make_image(2), "path": None},
    "vote_type": "bothbad_vote",
}
CRITERION = {
    "prompt": "Draw a dog.",
    "response1_path": "text_to_image/1.jpg",
    "response2_path": "text_to_image/2.jpg",
    "criteria": "Colour.",
    "criteria_preference": "tie",
}
THINK = {
    "problem": "Compare.\nText Caption: [A dog [brown].]",
    "solution": "<answer>Image 1 is better</answer>",
    "images": ["1.jpg", "2.jpg"],
}
COLD_START = {
    "conversations": [
        {"from": "human", "value": THINK["problem"]},
        {"from": "gpt", "value": "<think>Image 2 is better at first.</think>\n<answer>Image 1 is better</answer>"},
    ],
    "images": ["1.jpg", "2.jpg"],
}


@pytest.mark.parametrize(
    ("name", "record", "question", "n_images", "better"),
    [
        ("hpdv3", EDITED, "Make it a cat.", 3, 0),
        ("hpdv3", {**EDITED, "tie_case": True}, "Make it a cat.", 3, "tie"),
        ("genai_bench", EDIT_VOTE, "Make it a cat.", 3, "tie"),
        ("genai_bench", {**EDIT_VOTE, "vote_type": "leftvote"}, "Make it a cat.", 3, 0),
        ("omni_rewardbench", CRITERION, "Draw a dog.\n\nJudge by this criterion only, whatever else is better or worse:"
         " Colour.", 2, "tie"),
        ("omni_rewardbench", {**CRITERION, "image": "0.jpg", "criteria_preference": "response1"},
         "<image>\nDraw a dog.\n\nJudge by this criterion only, whatever else is better or worse: Colour.", 3, 0),
        ("unified_reward", THINK, "A dog [brown].", 2, 0),
        ("unified_reward", COLD_START, "A dog [brown].", 2, 0),
    ],
)  # fmt: skip
def test_generated_images(name: str, record: dict[str, Any], question: str, n_images: int, better: Any) -> None:
    pair = pair_of(name, record)
    assert (pair.question, len(pair.images), pair.preferred) == (question, n_images, better)
    assert (pair.responses, pair.response_images) == (("<image>", "<image>"), (1, 1))


def test_images_with_ranks_become_all_pairs() -> None:
    record = {"prompt": "A dog.", "image_path": ["1.jpg", "2.jpg", "3.jpg"], "rank": [2, 1, 2]}
    pairs = [item for item in load_source("hpdv2").convert(record, Options()) if isinstance(item, PreferencePair)]
    assert [pair.preferred for pair in pairs] == [1, "tie", 0]
    assert [[image.path for image in pair.images] for pair in pairs] == [
        ["1.jpg", "2.jpg"], ["1.jpg", "3.jpg"], ["2.jpg", "3.jpg"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "record", "reason"),
    [
        ("unified_reward", {**THINK, "solution": "Video 1 is better"}, "video"),
        ("unified_reward", {**THINK, "solution": "Image 3 is better"}, "unknown-label"),
        ("unified_reward", {**THINK, "images": ["1.jpg"]}, "image-count"),
        ("unified_reward", {**THINK, "problem": "Compare.\nText Caption: [a] Text Caption: [b]"}, "ambiguous-prompt"),
        ("omni_rewardbench", {**CRITERION, "response1_path": None, "response1": "a/1.mp4"}, "video"),
        ("omni_rewardbench", {**CRITERION, "video": "a.mp4"}, "video"),
        ("omni_rewardbench", {**CRITERION, "criteria": None}, "missing-field"),
        ("genai_bench", {"prompt": "x", "left_video": "a", "right_video": "b", "vote_type": "leftvote"}, "video"),
        ("pick_a_pic", {"caption": "x", "jpg_0": b"", "jpg_1": b"", "has_label": False}, "unknown-label"),
        ("hpdv2", {"prompt": "x", "file_path": ["1.jpg"], "human_preference": [1]}, "bad-ranking"),
    ],
)
def test_what_is_refused_by_name(name: str, record: dict[str, Any], reason: str) -> None:
    assert reason_of(name, record) == reason


@pytest.mark.parametrize("key", ["verdict", "caption"])
def test_long_blanks_cost_linear_time(key: str) -> None:
    blanks = " " * 199_000
    record = {**THINK, "solution": f"<answer>{blanks}x"} if key == "verdict" else {**THINK, "problem": f"x{blanks}]"}
    assert reason_of("unified_reward", record) in ("unknown-label", "ambiguous-prompt")
