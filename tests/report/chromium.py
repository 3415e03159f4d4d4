"""Where the browser is, and a page in it that remembers everything that went wrong.

Playwright drives the Chromium of the system: its own downloads come from an address outside any package registry. A
machine without a browser must not pass for one on which the page was seen, so its absence is a failure, not a skip.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
VARIABLE = "CRITIC_R1_CHROMIUM"
FLAGS = (
    "--no-sandbox",  # the tests may run as root, where the sandbox refuses to start
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class NoBrowserError(RuntimeError):
    pass


def find_chromium() -> str:
    """Path of a Chromium or Chrome. Raises NoBrowserError with the remedy when there is none."""
    if chosen := os.environ.get(VARIABLE):
        if shutil.which(chosen):
            return chosen
        raise NoBrowserError(f"{VARIABLE}={chosen} is no program; set it to a Chromium or Chrome, or unset it")
    for name in NAMES:
        if path := shutil.which(name):
            return path
    raise NoBrowserError(
        f"no Chromium on this machine (looked for {', '.join(NAMES)}): install one, for example with "
        f"`apt-get update && apt-get install -y chromium`, or set {VARIABLE} to its path"
    )


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless browser with a fresh profile, closed at the end."""
    path = find_chromium()
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def opened(
    chromium: Browser, report: Path, *, scheme: str = "light", width: int = 1280
) -> Iterator[tuple[Page, list[str]]]:
    """The report in a tab of its own, and the list of complaints: console lines, errors, requests to anywhere."""
    page = chromium.new_page(
        color_scheme="dark" if scheme == "dark" else "light", viewport={"width": width, "height": 900}
    )
    complaints: list[str] = []
    own = report.resolve().as_uri()
    page.on("console", lambda message: complaints.append(f"console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))

    def note(request: Request) -> None:
        if not request.url.startswith((own, "data:")):
            complaints.append(f"request: {request.url}")

    page.on("request", note)
    try:
        page.goto(own)
        yield page, complaints
    finally:
        page.close()
