"""The README's image is the one that its script draws."""

import runpy
from pathlib import Path
from xml.etree import ElementTree

DOCS = Path(__file__).parents[1] / "docs"


def test_committed_image_is_current_and_well_formed() -> None:
    drawn = runpy.run_path(str(DOCS / "make_pipeline_svg.py"))["image"]()
    assert (DOCS / "pipeline.svg").read_text(encoding="utf-8") == drawn, "run python docs/make_pipeline_svg.py"
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
