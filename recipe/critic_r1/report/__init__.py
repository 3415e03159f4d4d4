"""Runs as one HTML file that opens from disk.

The page contains everything it shows (images, curves, script, style) and loads nothing from the network, so that it can
be shared as one file. Text of models and data sets is hostile: it reaches the page only through Jinja's escaping or as
JSON that the script inserts with `textContent`, and a content security policy allows no script but ours.
"""

from recipe.critic_r1.report.page import build_page, build_report
from recipe.critic_r1.report.records import ReportError

__all__ = ["ReportError", "build_page", "build_report"]
