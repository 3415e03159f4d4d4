"""Writes docs/pipeline.svg, the image in the README: how a preference pair becomes a critic, and what it is good for.

    python docs/make_pipeline_svg.py

Drawn by a script so that a changed word moves its box with it. The style follows the reader's colour scheme, and each
box carries its own ground, so that the text can be read where a site ignores that scheme.
"""

from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 980, 392
SKILLS = ("critic: which response is better?", "policy: what is the answer?")
STYLE = """
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: #1c2024; }
.lane { fill: #eef1f5; stroke: #c9d0d9; }
.box { fill: #ffffff; stroke: #aeb8c4; }
.lead { fill: #e4efff; stroke: #1f6fd6; }
.title { font-size: 15px; font-weight: 600; }
.line { font-size: 13px; fill: #4c5561; }
.code { font: 12.5px ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; fill: #4c5561; }
.room { font: 600 12.5px ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; fill: #4c5561; }
.arrow { stroke: #5b6470; stroke-width: 1.6; fill: none; }
.head { fill: #5b6470; }
@media (prefers-color-scheme: dark) {
  text { fill: #e8eaed; }
  .lane { fill: #1a1d22; stroke: #3a414b; }
  .box { fill: #24282f; stroke: #4a525e; }
  .lead { fill: #172a45; stroke: #6aa9ff; }
  .line, .code, .room { fill: #b4bcc8; }
  .arrow { stroke: #a0a8b4; }
  .head { fill: #a0a8b4; }
}
"""


def box(x: int, y: int, width: int, height: int, title: str, *lines: str, kind: str = "box") -> str:
    """A box with a title and lines of text below; a line that starts with a backtick is code."""
    parts = [f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>']
    parts.append(f'<text class="title" x="{x + 14}" y="{y + 25}">{escape(title)}</text>')
    for number, line in enumerate(lines):
        style = "code" if line.startswith("`") else "line"
        text = escape(line.removeprefix("`"))
        parts.append(f'<text class="{style}" x="{x + 14}" y="{y + 46 + 19 * number}">{text}</text>')
    return "\n".join(parts)


def lane(x: int, width: int, room: str) -> str:
    """A column of the image, with the folder of the code at its foot."""
    return (
        f'<rect class="lane" x="{x}" y="1" width="{width}" height="{HEIGHT - 2}" rx="12"/>\n'
        f'<text class="room" x="{x + 16}" y="{HEIGHT - 14}">{escape(room)}</text>'
    )


def arrow(*points: tuple[int, int]) -> str:
    """A line through the points with a head at the last; the last stretch runs along an axis."""
    (x0, y0), (x, y) = points[-2:]
    ahead = (x > x0) - (x < x0), (y > y0) - (y < y0)
    aside = ahead[1], ahead[0]
    tip = [(x, y)] + [(x - 9 * ahead[0] + s * 5 * aside[0], y - 9 * ahead[1] + s * 5 * aside[1]) for s in (1, -1)]
    shaft = [*points[:-1], (x - 6 * ahead[0], y - 6 * ahead[1])]
    path = "M" + " L".join(f"{a} {b}" for a, b in shaft)
    head = " ".join(f"{a},{b}" for a, b in tip)
    return f'<path class="arrow" d="{path}"/>\n<polygon class="head" points="{head}"/>'


def image() -> str:
    """The whole SVG."""
    left, middle, right = 17, 343, 701
    tasks = ("prompt, images, label 1, 2 or tie;", "better response first in half,", "no image in two splits")
    grpo = ("responses above their group's mean", "become likelier; the new weights", "return to the rollouts")
    critique = ("N answers of its own, two at a time,", "the better one advances: best of N", "without a second model")
    body = [
        # Lanes first: what is drawn later lies on top.
        lane(1, 294, "data_prep/"),
        lane(327, 326, "reward_fns/ · recipe/critic_r1/ on verl"),
        lane(685, 294, "judging/ · best_of_n/ · report/"),
        box(left, 18, 262, 88, "Source rows", "rankings, ratings, chosen/rejected:", "one converter per data set"),
        arrow((148, 106), (148, 132)),
        box(left, 132, 262, 88, "Preference pairs", "image, question, two responses,", "which one is better"),
        arrow((148, 220), (148, 246)),
        box(left, 246, 262, 107, "Tasks in Parquet", *tasks),
        arrow((279, 300), (311, 300), (311, 62), (343, 62)),
        box(middle, 18, 278, 88, "Rollouts", "8 responses to each task", "`<think>…</think> \\boxed{2}"),
        arrow((482, 106), (482, 132)),
        box(
            middle, 132, 278, 88, "Verifiable reward", "0.9 × the verdict is the label", "0.1 × the format is followed"
        ),
        arrow((482, 220), (482, 246)),
        box(middle, 246, 278, 107, "GRPO", *grpo),
        arrow((621, 284), (637, 284), (637, 62), (621, 62)),
        arrow((621, 316), (669, 316), (669, 62), (701, 62)),
        box(right, 18, 262, 88, "One model, two skills", *SKILLS, kind="lead"),
        arrow((832, 106), (832, 132)),
        box(right, 132, 262, 88, "Judged", "each pair in both orders,", "each metric with its interval"),
        arrow((832, 220), (832, 246)),
        box(right, 246, 262, 107, "Self-critique", *critique),
    ]
    title = "Preference pairs become tasks, verl trains on them, and the critic picks its own best answer"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{title}">\n<style>{STYLE}</style>\n' + "\n".join(body) + "\n</svg>\n"
    )


if __name__ == "__main__":
    target = Path(__file__).with_name("pipeline.svg")
    target.write_text(image(), encoding="utf-8")
    print(target)
