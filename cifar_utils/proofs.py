"""Proving that arrays and records are what they were, and what they should be.

Structure (counts, label ranges), channel statistics, and the content's digest: it is remembered
at the first load, and the decoded arrays are kept, so that later loads take a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cifar_utils.catalog import Spec
from cifar_utils.formats import Arrays, DataError

ADVICE = "Delete these files and load again, or name another folder in CIFAR_DATA."
MEMORY = ".digests.json"


class RecordError(ValueError):
    """A record cannot be used; the message names the file, what was found and what to do."""


@contextlib.contextmanager
def record(file: Path) -> Iterator[None]:
    """Raise RecordError for whatever comes of a file that does not hold what the book records."""
    try:
        yield
    except RecordError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise RecordError(
            f"{file.name} is not a record of this book's: {type(error).__name__}: {error}. "
            "Restore it from the repository, or move it away."
        ) from error


@dataclass(frozen=True)
class Found:
    """A data set as arrays; `cifar_utils.data.Dataset` says what the other fields mean."""

    source: str
    split: str
    digest: str
    classes: tuple[str, ...]
    superclasses: tuple[str, ...] | None
    train: Arrays
    test: Arrays


def check_structure(spec: Spec, train: Arrays, test: Arrays, counts: tuple[int, int] | None):
    """Raise DataError unless labels are in range and, given `counts`, classes are even."""
    n = len(spec.classes)
    for part, (images, labels, coarse), count in zip(
        ("training", "test"), (train, test), counts or (None, None), strict=True
    ):
        limits = [(spec.label, labels, n)]
        if coarse is not None:
            limits.append((spec.coarse, coarse, len(spec.superclasses)))
        for column, values, limit in limits:
            if len(values) and not 0 <= values.min() <= values.max() < limit:
                bad = values[(values < 0) | (values >= limit)][0]
                raise DataError(f"{part} {column} {bad} is out of range 0..{limit - 1}. {ADVICE}")
            if count is not None and set(np.bincount(values, minlength=limit)) != {count // limit}:
                raise DataError(
                    f"{len(images)} {part} pictures, {np.bincount(values).tolist()} by {column}; "
                    f"{spec.name} has {count}, {count // limit} of each. {ADVICE}"
                )


def channel_stats(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel of `(N, 3, H, W) uint8`, two `(3,) float64` in 0..1."""
    values = np.arange(256) / 255
    # 256 counts a channel hold all that is needed, and are exact.
    counts = [np.bincount(images[:, channel].reshape(-1), minlength=256) for channel in range(3)]
    share = np.stack(counts) / (images.size // 3)
    mean = share @ values
    return mean, np.sqrt((share * (values - mean[:, None]) ** 2).sum(1))


def content_digest(train: Arrays, test: Arrays) -> str:
    """SHA-256 over pictures and labels of both splits; the order within a split does not matter."""
    total = hashlib.sha256()
    for images, labels, coarse in (train, test):
        columns = [labels] if coarse is None else [labels, coarse]
        rows = np.concatenate(
            [images.reshape(len(images), 3072), np.stack(columns, 1).astype(np.uint8)], axis=1
        )
        total.update(b"".join(sorted(hashlib.sha256(row).digest() for row in rows)) + b"|")
    return total.hexdigest()


def file_digest(path: Path, kind: str) -> str:
    """The digest of a file's bytes, in hexadecimal; kind: "md5" or "sha256"."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def cache_folder() -> Path:
    """Where the user's cache keeps decoded pictures; may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cifar_utils"


def recall(cached: Path) -> Found | None:
    """What `keep` kept, if it is still what was kept."""
    try:
        with np.load(cached) as kept:
            if sum(entry.file_size for entry in kept.zip.infolist()) > cached.stat().st_size:
                return None  # `keep` packs nothing: what is packed may become anything
            head = json.loads(str(kept["head"]))
            train, test = (
                tuple(kept.get(f"{part}{i}") for i in range(3)) for part in ("train", "test")
            )
        if content_digest(train, test) != head["digest"]:
            return None
        for name in ("classes", "superclasses"):
            head[name] = head[name] and tuple(head[name])
        return Found(**head, train=train, test=test)
    except Exception:  # absent or damaged in any way: it is only a cache
        return None


def keep(cached: Path, found: Found) -> None:
    """Decoding takes seconds: keep the arrays in the user's cache, in place of older ones."""
    head = dict(vars(found))
    arrays = {
        f"{part}{i}": array
        for part in ("train", "test")
        for i, array in enumerate(head.pop(part))
        if array is not None
    }
    temporary = cached.with_name(f"{cached.stem}.{os.getpid()}.tmp.npz")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, head=json.dumps(head), **arrays)
        for older in cached.parent.glob(cached.name.rsplit("-", 1)[0] + "-*.npz"):
            if older != temporary:
                older.unlink(missing_ok=True)
        os.replace(temporary, cached)
    except OSError:  # a full or read-only disk costs time at the next load, nothing else
        with contextlib.suppress(OSError):  # read-only: even for a file that is not there
            temporary.unlink()


def remember(folder: Path, key: str, digest: str) -> None:
    """Raise DataError if content was loaded as `key` before, and it was other content.

    The note lies beside the data; for a folder that is not to be written to, in the user's cache.
    """
    writable = os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222
    notes = (folder if writable else cache_folder()) / MEMORY
    try:
        known = json.loads(notes.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if known.get(key, digest) != digest:
        raise DataError(
            f"the content of {key.rsplit('-', 1)[0]} has changed since it was first loaded: its "
            f"digest is {digest[:12]}…, and {notes.name} remembers {known[key][:12]}…. If you "
            f"changed the files yourself, delete that note ({notes}); else fetch them anew."
        )
    if key not in known:
        temporary = notes.with_name(f"{notes.name}.{os.getpid()}")
        try:
            notes.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(known | {key: digest}, indent=1), encoding="utf-8")
            os.replace(temporary, notes)
        except OSError:  # nowhere to write: then there is nothing to compare with next time
            with contextlib.suppress(OSError):
                temporary.unlink()
