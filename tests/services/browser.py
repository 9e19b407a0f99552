"""A real headless Chromium, driven by Playwright, and what axe-core finds in a page."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from tests.services import Unavailable

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
#: Best practices of axe-core beside the rules of WCAG 2.2 AA.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def chromium() -> str:
    """The path of an installed Chromium. Raises Unavailable if there is none."""
    path = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if path is None:
        raise Unavailable("Chromium is not installed (Debian package chromium)")
    return path


@contextmanager
def running() -> Iterator[Browser]:
    """Start a browser. Raises Unavailable if there is none."""
    path = chromium()
    with sync_playwright() as playwright:
        # Its sandbox needs rights that a container lacks.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def findings(page: Page) -> list[str]:
    """Return what axe-core finds: rule, element and reason."""
    results: dict[str, Any] = Axe().run(page, options={"runOnly": RULES}).response
    return [
        f"{violation['id']}: {node['html']} {node['failureSummary']}"
        for violation in results["violations"]
        for node in violation["nodes"]
    ]


def save_screenshot(seen: Page | Locator, path: Path) -> None:
    """Write what is seen of a page without scrolling, or an element, as a small PNG."""
    image = Image.open(io.BytesIO(seen.screenshot()))
    image.convert("RGB").quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)
