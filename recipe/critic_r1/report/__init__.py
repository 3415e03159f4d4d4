"""Runs as one HTML file that opens from disk.

People share results by sending one file, and they judge a critic by reading its judgements beside the images. So the
page carries everything it shows (images, curves, script, style) and asks the network for nothing. What a model or a
data set wrote is hostile text: it reaches the page only through Jinja's escaping or as JSON that the script puts in
place with `textContent`, and a content policy forbids every script but ours.
"""

from recipe.critic_r1.report.page import build_page, build_report
from recipe.critic_r1.report.records import ReportError

__all__ = ["ReportError", "build_page", "build_report"]
