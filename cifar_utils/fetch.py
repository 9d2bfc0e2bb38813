"""Fetching CIFAR: the Hub's parquet mirror, and the official archive.

Both downloads run in a child process that fills a folder of its own beside the data. It is ended
when bytes stop coming, and what it fetched moves to its place whole, in one step, only after its
digest is right. The official host has been slow since June 2026 (pytorch/vision issue 9536), so
the mirror is asked first.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from cifar_utils.catalog import Spec
from cifar_utils.proofs import file_digest

WINDOW = 30.0  # seconds: how long too little may arrive; twice that at first, for the start-up
HUB_RATE = 50_000  # bytes a second: the least for which the mirror is worth waiting
ARCHIVE_RATE = 10_000  # the last resort is given more patience

# What fetches must not go on for nobody: its standard input ends when its parent does, however.
CHILD = """
import os, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
"""

HUB = """
import sys
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
repo, revision, folder, *files = sys.argv[1:]
where = {"repo_type": "dataset", "revision": revision}
get_hf_file_metadata(hf_hub_url(repo, files[0], **where), token=False)  # without network: fail now
for file in files:
    hf_hub_download(repo, file, local_dir=folder, token=False, **where)
"""

ARCHIVE = """
import sys, tarfile
tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)  # nothing outside the folder
from torchvision.datasets.utils import download_and_extract_archive
url, md5, folder = sys.argv[1:]
download_and_extract_archive(url, folder, md5=md5, remove_finished=True)
"""


class NotHad(Exception):
    """A route did not bring the data set; says why."""


@contextlib.contextmanager
def alone(data: Path) -> Iterator[None]:
    """Let one process at a time fetch into `data`; the others wait here until it is done."""
    with contextlib.ExitStack() as held:
        try:
            data.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(data / ".fetching.lock")
            held.enter_context(lock.acquire(timeout=0))
        except filelock.Timeout:
            print(f"Another process is fetching into {data.name}/: waiting for it", flush=True)
            held.enter_context(lock)
        except OSError:  # fetching itself says that nothing can be written
            pass
        yield


def from_hub(spec: Spec, data: Path) -> None:
    """Fetch the mirror's parquet shards into `data/<name>/`. Raises NotHad."""
    staging = data / f".{spec.name}-mirror"
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
    kind, staging = spec.official, data / f".{spec.name}-host"
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
    print(
        f"Fetching {staging.name[1:].replace('-', ' from the ')}, {total / 1e6:.0f} MB", flush=True
    )
    environment = os.environ | {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",  # plain HTTP grows a file that can be watched, and resumed
        "HF_HUB_DOWNLOAD_TIMEOUT": str(max(1, int(WINDOW / 3))),
    }
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD + code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=environment,
        )
        try:
            had, patience = 0, 2 * WINDOW
            while True:
                try:
                    child.wait(patience)
                    break
                except subprocess.TimeoutExpired:
                    has = _size(staging)
                    if has - had < rate * patience:
                        speed = f"{max(0, has - had) / patience / 1000:.0f} kB/s"
                        raise NotHad(f"too slow, {speed}: given up") from None
                    print(f"  {has / 1e6:.0f} of {total / 1e6:.0f} MB", flush=True)
                    had, patience = has, WINDOW
        finally:
            child.stdin.close()
            child.kill()
            child.wait()
            if child.returncode and not list(staging.glob("*/*.parquet")):
                shutil.rmtree(staging, ignore_errors=True)  # no whole shard to go on from
        if child.returncode:
            said.seek(0)
            raise NotHad(_reason(said.read().decode(errors="replace")))


def _reason(said: str) -> str:
    """From a traceback, what happened: the last error's kind and first sentence."""
    errors = re.findall(r"^[\w.]*?(\w+(?:Error|Exception|Timeout)): *(.*)$", said, re.MULTILINE)
    kind, text = errors[-1] if errors else ("the download failed", said.strip()[-100:])
    return f"{kind}: {text.split('. ')[0][:120]}"


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # it was renamed in this moment
            continue
    return total
