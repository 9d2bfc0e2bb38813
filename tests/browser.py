"""A real browser for the tests that need one; where there is none they are skipped."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def chromium() -> Iterator:
    """A Chromium without a window, driven by playwright."""
    found = [shutil.which(n) for n in "chromium chromium-browser google-chrome chrome".split()]
    if not any(found):
        pytest.skip("no Chromium here: install chromium or google-chrome to test what it shows")
    sync = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=next(filter(None, found)), args=options)
        yield browser
        browser.close()
