"""The page of `critic-r1 show --html` in Chromium."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser

from data_prep.checks.show import html_sheet, sample_rows
from data_prep.sources import digits
from data_prep.tasks.ordering import preference_tasks
from data_prep.tasks.pairwise import PreferencePair
from data_prep.writer import write_parquet
from tests.report.chromium import opened
from tests.report.made_run import HOSTILE as HOSTILE_TEXTS

HOSTILE = " ".join(HOSTILE_TEXTS[:4])
"""In one line, as a browser shows it."""

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_hostile_text_in_every_place_is_only_text(chromium: Browser, tmp_path: Path) -> None:
    image = digits.load_digit_images()[0].image
    pair = PreferencePair("digits", (image,), f"asked {HOSTILE}", (f"first {HOSTILE}", f"second {HOSTILE}"), 0)
    write_parquet(preference_tasks([pair]), tmp_path)
    file = tmp_path / "<img src=x onerror='window.stolen = 5'>.parquet"
    table = pq.read_table(tmp_path / "train-00000.parquet")
    row = table.to_pylist()[0]
    row["data_source"] = row["reward_model"]["ground_truth"] = row["extra_info"]["pair_id"] = HOSTILE
    row["images"].append({"bytes": None, "path": f"{HOSTILE}.png"})
    pq.write_table(type(table).from_pylist([row], schema=table.schema), file)

    html_sheet(sample_rows([file], 1), tmp_path / "page.html")

    with opened(chromium, tmp_path / "page.html") as (page, complaints):
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        shown = page.locator("body").inner_text()
        assert shown.count(HOSTILE) >= 8, shown  # source, pair, image, question, two responses, label, prompt
        assert page.evaluate("window.stolen") is None
        assert page.locator(":is(img[src=x], [onerror], script)").count() == 0
        assert page.locator("img").count() == 1
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
        assert complaints == []
