"""Where CIFAR comes from: finding files, fetching them, and proving that they are CIFAR.

`find` looks in a folder, then at the Hub's parquet mirror, then at the official host, and at last
draws the stand-in. Whatever the route: publishers' digests where there are any, then counts,
shapes and label ranges, then the channels' means and deviations; and the content's own digest is
remembered and must be the same ever after.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np

from cifar_utils import catalog, fetch, proofs, standin
from cifar_utils.catalog import Spec
from cifar_utils.formats import Arrays, DataError, read_batches, read_parquet, read_pickle
from cifar_utils.proofs import ADVICE, Found, file_digest

DATA = Path(__file__).resolve().parents[1] / "data"


def find(
    name: str, folder: str | Path | None = None, stand_in: tuple[int, int] | None = None
) -> Found:
    """The data set from the first place that has it; see `cifar_utils.data.load`."""
    if name not in catalog.SPECS:
        raise ValueError(f"there is 'cifar10' and 'cifar100', not {name!r}")
    spec = catalog.SPECS[name]
    if stand_in is not None:
        return draw(spec, *stand_in)
    named = folder or os.environ.get("CIFAR_DATA")
    if named:
        found = from_folder(Path(named).expanduser(), spec)
        if found is None:
            whose = "the folder you named" if folder else "CIFAR_DATA"
            raise DataError(
                f"{whose} holds no {name}: looked in {named} for {spec.official.base_folder}/ "
                f"and for parquet shards in {hub_folder(spec)}/ and {name}/{hub_folder(spec)}/."
            )
        return found
    found = from_folder(DATA, spec) or _fetch(spec)
    if found is not None:
        return found
    print(
        f"WARNING: {name} is not in data/, and could not be fetched (reasons above). What follows "
        "is computed on the STAND-IN: drawn pictures, not CIFAR.",
        flush=True,
    )
    return draw(spec, *spec.counts)


def _fetch(spec: Spec) -> Found | None:
    """The data set from the network, or from who fetched it while this waited; None without."""
    with fetch.alone(DATA):
        found = from_folder(DATA, spec)
        routes = ("Hub mirror", fetch.from_hub), ("official archive", fetch.from_archive)
        for place, get in routes:
            if found is None:
                try:
                    get(spec, DATA)
                    found = from_folder(DATA, spec)
                except fetch.NotHad as error:
                    print(f"  no {spec.name} from the {place}: {error}", flush=True)
    return found


def draw(spec: Spec, n_train: int, n_test: int) -> Found:
    """The procedural stand-in of that size."""
    n = len(spec.classes)
    train, test = standin.make(n_train, n_test, n)
    names = standin.class_names(n), standin.superclass_names(n)
    return Found("stand-in", "stand-in", proofs.content_digest(train, test), *names, train, test)


def hub_folder(spec: Spec) -> str:
    """The folder in which the mirror keeps its shards ("plain_text", "cifar100")."""
    return next(iter(spec.shards)).split("/")[0]


def from_folder(folder: Path, spec: Spec) -> Found | None:
    """The data set in `folder`, in either layout; None if there is nothing of it.

    Raises DataError if something of it is there and is not whole, or not CIFAR.
    """
    base = spec.official.base_folder
    for place in (folder / base, folder / spec.name / base):
        if place.is_dir():
            listed = spec.official.train_list + spec.official.test_list
            files = [place / file for file, _ in listed] + [place / spec.official.meta["filename"]]
            return _checked(folder, spec, files, _from_official)
    inner = hub_folder(spec)
    for place in (folder / spec.name / inner, folder / inner, folder / spec.name):
        files = sorted(place.glob("*.parquet"))
        if files:
            return _checked(folder, spec, files, _from_parquet)
    return None


def _checked(folder: Path, spec: Spec, files: list[Path], read) -> Found:
    """Read `files`, or what was decoded from them before; hold the content to its digest."""
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise DataError(f"{files[0].parent.name}/ is incomplete: {missing[0]} is missing. {ADVICE}")
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    place = hashlib.sha256(str(files[0].parent.resolve()).encode()).hexdigest()[:12]
    key = hashlib.sha256(repr((stamps, spec, catalog.KNOWN_COPIES)).encode()).hexdigest()[:12]
    cached = proofs.cache_folder() / f"{spec.name}-{place}-{key}.npz"
    found = proofs.recall(cached)
    if found is None:
        found = read(folder, spec, files)
        proofs.keep(cached, found)
    proofs.remember(folder, f"{spec.name}-{place}", found.digest)
    return found


def _from_official(folder: Path, spec: Spec, files: list[Path]) -> Found:
    """The official layout. Files that are not the official ones are never trusted to unpickle."""
    kind = spec.official
    expected = [md5 for _, md5 in kind.train_list + kind.test_list] + [kind.meta["md5"]]
    altered = [
        p.name for p, md5 in zip(files, expected, strict=True) if file_digest(p, "md5") != md5
    ]
    if 0 < len(altered) < len(files):
        raise DataError(f"{altered[0]} is not the official file: its MD5 differs. {ADVICE}")
    meta = read_pickle(files[-1])
    keys = f"{spec.label}s", spec.coarse and f"{spec.coarse}s"
    cut = len(kind.train_list)
    train, test = read_batches(files[:cut], *keys), read_batches(files[cut:-1], *keys)
    if meta.get("stand_in") is True:
        n = len(spec.classes)
        proofs.check_structure(spec, train, test, None)
        names = standin.class_names(n), standin.superclass_names(n)
        return Found(
            "stand-in", "stand-in", proofs.content_digest(train, test), *names, train, test
        )
    return _proven(spec, f"files in {kind.base_folder}", not altered, train, test)


def _from_parquet(folder: Path, spec: Spec, files: list[Path]) -> Found:
    """Parquet shards `train-…` and `test-…`, in the order of their names."""
    splits = {}
    for part in ("train", "test"):
        shards = splits[part] = [path for path in files if path.name.startswith(f"{part}-")]
        total = re.search(r"-of-(\d+)\.parquet$", shards[0].name) if shards else None
        if not shards or (total and int(total[1]) != len(shards)):
            wanted = int(total[1]) if total else "its"
            raise DataError(
                f"{files[0].parent.name}/ is incomplete: {len(shards)} of {wanted} {part} shards "
                f"are there. {ADVICE}"
            )
    known = {path.rsplit("/")[-1]: sha for path, (_, sha) in spec.shards.items()}
    official = [file_digest(path, "sha256") == known.get(path.name) for path in files]
    if any(official) and not all(official):
        bad = files[official.index(False)].name
        raise DataError(f"{bad} is not the mirror's file: its SHA-256 differs. {ADVICE}")
    train, test = (read_parquet(splits[p], spec.label, spec.coarse) for p in ("train", "test"))
    source = f"Hub mirror {spec.repo}" if all(official) else "parquet files"
    return _proven(spec, source, all(official), train, test)


def _proven(spec: Spec, source: str, official: bool, train: Arrays, test: Arrays) -> Found:
    """What was read, after counts, ranges and channels are checked; says whose split it is."""
    proofs.check_structure(spec, train, test, spec.counts)
    mean, std = proofs.channel_stats(train[0])
    if np.abs(mean - spec.mean).max() > 1e-3 or np.abs(std - spec.std).max() > 1e-3:
        raise DataError(
            f"the {source} are not {spec.name}: channel means {np.round(mean, 3).tolist()} and "
            f"deviations {np.round(std, 3).tolist()}, not {spec.mean} and {spec.std}. {ADVICE}"
        )
    digest = proofs.content_digest(train, test)
    split, note = (
        ("official", "")
        if official
        else catalog.KNOWN_COPIES.get(digest, ("unverified", "split not verified"))
    )
    source = f"{source} ({note})" if note else source
    return Found(source, split, digest, spec.classes, spec.superclasses, train, test)
