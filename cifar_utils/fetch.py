"""Fetching CIFAR: the Hub's parquet mirror, and the official archive.

Both downloads run in a child process that fills a folder of its own beside the data. It is ended
when bytes stop coming, and what it fetched moves to its place whole, in one step, only after its
digest is right. The official host has been slow since June 2026 (pytorch/vision issue 9536), so
the mirror is asked first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cifar_utils.catalog import Spec
from cifar_utils.proofs import file_digest

WINDOW = 30.0  # seconds: as long as this may bring less than the least rate, and no longer
HUB_RATE = 50_000  # bytes a second: the least for which the mirror is worth waiting
ARCHIVE_RATE = 10_000  # the last resort is given more patience

HUB = """
import sys
from huggingface_hub import hf_hub_download
repo, revision, folder, *files = sys.argv[1:]
where = {"repo_type": "dataset", "revision": revision, "local_dir": folder}
for file in files:
    hf_hub_download(repo, file, token=False, **where)
"""

ARCHIVE = """
import sys
from torchvision.datasets.utils import download_and_extract_archive
url, md5, folder = sys.argv[1:]
download_and_extract_archive(url, folder, md5=md5, remove_finished=True)
"""


class NotHad(Exception):
    """A route did not bring the data set; says why."""


def from_hub(spec: Spec, data: Path) -> None:
    """Fetch the mirror's parquet shards into `data/<name>/`. Raises NotHad."""
    staging = data / f".{spec.name}-hub"
    total = sum(size for size, _ in spec.shards.values())
    inner = next(iter(spec.shards)).split("/")[0]
    _run(HUB, [spec.repo, spec.revision, str(staging), *spec.shards], staging, total, HUB_RATE)
    for path, (_, sha) in spec.shards.items():
        if file_digest(staging / path, "sha256") != sha:
            shutil.rmtree(staging)
            raise NotHad(f"{path} arrived altered: its SHA-256 is not the mirror's; deleted")
    _settle(staging, inner, data / spec.name / inner)


def from_archive(spec: Spec, data: Path) -> None:
    """Fetch and extract the official archive into `data/`. Raises NotHad."""
    kind, staging = spec.official, data / f".{spec.name}-archive"
    _run(ARCHIVE, [kind.url, kind.tgz_md5, str(staging)], staging, 170_000_000, ARCHIVE_RATE)
    _settle(staging, kind.base_folder, data / kind.base_folder)


def _settle(staging: Path, inner: str, target: Path) -> None:
    """Move the finished folder to its place in one step, and clear what is left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(staging / inner, target)
    except OSError as error:
        raise NotHad(f"{target.name}/ could not be put in place: {error}") from error
    shutil.rmtree(staging, ignore_errors=True)


def _run(code: str, arguments: list[str], staging: Path, total: int, rate: int) -> None:
    """Run a program that fills `staging`, with a line of progress every `WINDOW` seconds.

    Raises NotHad when it fails, or brings fewer than `rate` bytes a second for `WINDOW` seconds.
    """
    try:
        staging.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotHad(f"data/ cannot be written to: {error}") from error
    print(f"Fetching {staging.name[1:]}, {total / 1e6:.0f} MB", flush=True)
    environment = os.environ | {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",  # plain HTTP grows a file that can be watched, and resumed
        "HF_HUB_DOWNLOAD_TIMEOUT": str(max(1, int(WINDOW / 3))),
    }
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=environment,
        )
        try:
            had = 0
            while True:
                try:
                    child.wait(WINDOW)
                    break
                except subprocess.TimeoutExpired:
                    has = _size(staging)
                    if has - had < rate * WINDOW:
                        speed = f"{max(0, has - had) / WINDOW / 1000:.0f} kB/s"
                        raise NotHad(f"too slow, {speed}: given up") from None
                    print(f"  {has / 1e6:.0f} of {total / 1e6:.0f} MB", flush=True)
                    had = has
        finally:
            child.kill()
            child.wait()
        if child.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise NotHad(_reason(lines))


def _reason(lines: list[str]) -> str:
    """The line of a traceback that says what happened."""
    errors = [line for line in lines if line[:1].isalpha() and ": " in line] or lines
    return errors[-1][:200]


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # it was renamed in this moment
            continue
    return total
