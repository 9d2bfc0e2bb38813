"""Hostile files: each is read rightly or refused in the book's own words, and none runs code.

A batch of them is opened by a child process, for the libraries below could take it down; it counts,
and watches time and memory. What it was opening when it failed is named: a seed, or a bomb.
"""

import contextlib
import dataclasses
import faulthandler
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import pickletools
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from test_checkpoints import differences, linear_job
from test_data import official_folder, write_shards
from test_predict import ABOUT, BAD, RGB, chunk, encoded, network
from torch import Tensor
from torchvision.datasets.utils import extract_archive
from torture import figures, rounds

import cells
import execute
import house
from apps import export as export_program
from apps import train, zoo
from apps.pictures import TrainError
from apps.serve import __main__ as serve
from apps.serve.engine import Network
from cifar_utils import (
    catalog,
    checkpoints,
    export,
    fetch,
    folder,
    formats,
    memory,
    practice,
    predict,
    proofs,
    runs,
    sources,
    weights,
)

OWN = (
    *(formats.DataError, checkpoints.CheckpointError, weights.WeightsError, folder.FolderError),
    *(predict.PictureError, proofs.RecordError),
)
MUCH = rounds(2**26, 2**31)  # what a bomb becomes, in bytes
ROOM = 1024  # MB: how much more memory than before a batch may take
LONGEST = 60.0  # seconds for one file: a busy machine's, not what is usual
# A fork costs nothing; only Linux's is safe after its parent has computed.
CONTEXT = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")

Open = Callable[[random.Random], object]  # raises one of OWN, or has seen that all is right
Bombs = dict[str, Callable[[], object]]  # all of them must raise one of OWN


# --- A batch in a child --------------------------------------------------------------------------


def peak() -> float:
    """Most memory held so far, in MB; 0 where that is not known."""
    return (memory.peak(torch.device("cpu")) or 0) / 2**20


def limit_memory() -> None:
    """Let what would take very much fail here, before the machine suffers."""
    if sys.platform == "linux":
        import resource

        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 4 * ROOM * 2**20,) * 2)


def child(kind: str, tries: int, place: Path, longest: float, now, report) -> None:
    """Open bombs, then `tries` files of a kind; report counts, or what went wrong with which."""
    torch.set_num_threads(1)  # a fork has no other threads
    warnings.simplefilter("ignore")
    opens, bombs = KINDS[kind](place)
    limit_memory()
    before, counted = peak(), {"inputs": 0, "loaded": 0, "refused": 0, "slowest_ms": 0}
    for name in [*bombs, *range(tries)]:
        now.value = str(name).encode()[:99]
        faulthandler.dump_traceback_later(longest, exit=True, file=sys.__stderr__)
        begun = time.perf_counter()
        try:
            bombs[name]() if name in bombs else opens(random.Random(name))
            end = "loaded"
        except OWN as error:
            end = "refused"
            assert str(error).strip()
        except BaseException:
            report.send(traceback.format_exc())
            return
        faulthandler.cancel_dump_traceback_later()
        counted["inputs"] += 1
        counted[end] += 1
        spent = round(1000 * (time.perf_counter() - begun))
        counted["slowest_ms"] = max(counted["slowest_ms"], spent)
        if name in bombs and end == "loaded":
            report.send("it was not refused")
            return
        if peak() - before > ROOM:
            report.send(f"memory grew by {peak() - before:.0f} MB")
            return
    report.send(counted | {"memory_growth_mb": round(peak() - before)})


def batch(kind: str, tries: int, place: Path, longest: float = LONGEST) -> dict[str, int]:
    """What a child counted that opened `tries` files of a kind. Fails with the name of the file."""
    now = CONTEXT.RawArray("c", 100)
    receive, send = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=child, args=(kind, tries, place, longest, now, send))
    process.start()
    send.close()
    try:
        found = receive.recv()
    except EOFError:
        process.join()
        found = f"the process ended with {process.exitcode}"
    process.join()
    if isinstance(found, str):
        pytest.fail(f"{kind}, file {now.value.decode() or 'none yet'}: {found}", pytrace=False)
    return found


# --- Mutations -----------------------------------------------------------------------------------

NUMBERS = (0, 1, -1, 255, 2**31 - 1, 2**32, 2**60, -(2**63), 2**64)
PIECES = [
    *(n.to_bytes(size, "little", signed=n < 0) for n in NUMBERS for size in (4, 9)
      if -(2 ** (8 * size - 1)) <= n < 2 ** (8 * size - 1)),
    *(b"../../outside", b"/etc/passwd", b"PK\x01\x02", b"PK\x05\x06", b"PAR1", b"\x93NUMPY", b"{"),
]  # fmt: skip


def mutated(content: bytes, draw: random.Random, tail: bool = False) -> bytes:
    """`content` with one to four changes; tail: most of them near the end."""
    made = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        near = draw.choice((60, 600, len(made))) if tail else draw.choice((60, len(made)))
        at = draw.randrange(min(near, len(made)) + 1)
        at = len(made) - at if tail else at
        size, kind = draw.randint(1, 40), draw.randrange(7)
        if kind == 0 and made[at : at + 1]:
            made[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            made[at : at + 1] = draw.choice((b"\0", b"\x01", b"\x7f", b"\x80", b"\xff"))
        elif kind == 2:
            del made[at : at + size]
        elif kind == 3:
            made[at:at] = draw.randbytes(size)
        elif kind == 4:
            other = draw.randrange(len(made) + 1)
            made[at:at] = made[other : other + size]
        elif kind == 5:
            piece = draw.choice(PIECES)
            made[at : at + len(piece)] = piece
        elif draw.random() < 0.3:
            del made[at:]
    return bytes(made)


ODD = (None, True, "", "x", "../x", "9" * 400, "\ud800", 0.5, 1e308, float("nan"), float("inf"))
ODD += ([], {}, [[]], {"a": 1}, [None], ["1", 2], list("abcdefghij"))


def odd(draw: random.Random) -> object:
    """A value of JSON that is not expected."""
    return draw.choice(ODD + NUMBERS)


def changed(value: object, draw: random.Random) -> object:
    """A copy of a value of JSON, with something inside it gone, doubled or replaced."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(sorted(value))
        if draw.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.6:
        at = draw.randrange(len(value))
        return value[:at] + draw.choice(([], [changed(value[at], draw)], value)) + value[at + 1 :]
    return odd(draw)


def text_of(value: object, draw: random.Random) -> bytes:
    """JSON, changed as a value or as bytes."""
    if draw.random() < 0.6:
        return json.dumps(changed(value, draw)).encode()
    return mutated(json.dumps(value, indent=1).encode(), draw)


NESTED = (b"[" * 200_000, b'{"a":' * 200_000, b"9" * 100_000, b'{"a": 1' + b"0" * 100_000 + b"}")


def zipped(members: list[tuple[str, bytes]], packed: bool = False) -> bytes:
    """A zip of members, their checksums right, whatever they are and however often they come."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", 8 if packed else 0) as archive:
        warnings.simplefilter("ignore")
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, 8 if packed else 0)
    return file.getvalue()


def rezipped(members: dict[str, bytes], draw: random.Random) -> bytes:
    """A zip with a member changed, renamed, doubled, left out or packed."""
    made = list(members.items())
    at = draw.randrange(len(made))
    (name, content), kind = made[at], draw.randrange(6)
    if kind == 0:
        made[at] = draw.choice(("../x", "/x", "", made[0][0], name.upper(), name + "\0")), content
    elif kind == 1:
        made.append((name, mutated(content, draw)))
    elif kind == 2:
        del made[at]
    else:
        made[at] = name, mutated(content, draw)
    return zipped(made, packed=kind == 5)


def zeros_zipped(names: dict[str, bytes], big: str, size: int) -> bytes:
    """A small zip whose member `big` becomes `size` zeros; the others are as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in names.items():
            if name != big:
                archive.writestr(name, content)
        with archive.open(big, "w", force_zip64=True) as member:
            member.write(names.get(big, b"")[:200])
            for _ in range(size >> 20):
                member.write(bytes(1 << 20))
    return file.getvalue()


# --- Data sets -----------------------------------------------------------------------------------


def small_cifar(place: Path) -> list[proofs.Arrays]:
    """Twenty and ten pictures of noise that this process takes for CIFAR-10."""
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    made = []
    for part, count in enumerate((20, 10)):
        images = np.random.default_rng(part).integers(0, 256, (count, 3, 32, 32), np.uint8)
        made.append((images, np.arange(count) % 10, None))
    mean, std = proofs.channel_stats(made[0][0])
    spec = catalog.SPECS["cifar10"]
    changes = {"counts": (20, 10), "mean": tuple(mean), "std": tuple(std)}
    catalog.SPECS["cifar10"] = dataclasses.replace(spec, **changes)
    return made


def in_folder(place: Path, change: Callable[[bytes, random.Random], bytes]) -> Open:
    """Change one file of a data set: it loads to what was loaded before, or not at all."""
    spec = catalog.SPECS["cifar10"]
    files = sorted(path for path in place.rglob("*") if path.is_file())
    whole = sources.from_folder(place, spec)  # and its digest is remembered

    def opens(draw: random.Random) -> None:
        file = draw.choice(files)
        content = file.read_bytes()
        try:
            file.write_bytes(change(content, draw))
            assert sources.from_folder(place, spec).digest == whole.digest
        finally:
            file.write_bytes(content)

    return opens


def require_pictures(found: formats.Arrays) -> None:
    images, labels, coarse = found
    assert images.dtype == np.uint8 and images.shape[1:] == (3, 32, 32) and coarse is None
    assert labels.dtype == np.int64 and labels.shape == images.shape[:1]


def python2_batch(images: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 wrote the official ones: bytes are its strings."""
    pixels = images.tobytes()
    return (
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03("
        + b"".join(b"K" + bytes([label]) for label in labels)
        + b"eU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06"
        + b"K\x00\x85U\x01b\x87Rq\x07(K\x01K"
        + bytes([len(labels)])
        + b"M\x00\x0c\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\x09(K\x03U\x01|NNN"
        + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", len(pixels))
        + pixels
        + b"tbu."
    )


CALL = b"cos\nmkdir\nX\x0a\x00\x00\x00it-has-run\x85R"
OPCODES = [
    *(opcode.code.encode("latin1") for opcode in pickletools.opcodes),
    *(CALL, b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cbuiltins\neval\n", b"K\x01\x85R", b")R"),
    *(
        b"r\xff\xff\xff\x7f",
        b"\x8a\x08" + b"\x7f" * 8,
        b"\x8e" + b"\xff" * 8,
        b"h\x02",
        b"h\x03\x86",
    ),
]


def pickled(content: bytes, draw: random.Random) -> bytes:
    """A pickle with bytes changed, or instructions put in between."""
    if draw.random() < 0.5:
        return mutated(content, draw)
    places = [place for _, _, place in pickletools.genops(content)]
    at = draw.choice(places)
    return content[:at] + b"".join(draw.choices(OPCODES, k=draw.randint(1, 4))) + content[at:]


def doubled(kind: bytes, depth: int) -> bytes:
    """Instructions for a container of two of itself, `depth` times over: 2^depth in all."""
    step = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + kind for i in range(100, 100 + depth))
    return b")" + step


def pickles(place: Path) -> tuple[Open, Bombs]:
    """Batches in the official layout: files, and folders of them."""
    os.chdir(place)  # where CALL would make its folder
    arrays = {"cifar10": small_cifar(place)}
    whole = official_folder(place / "mine", "cifar10", arrays)
    images = arrays["cifar10"][0][0]
    in_mine = in_folder(place / "mine", pickled)
    bases = [(whole / "data_batch_1").read_bytes(), python2_batch(images[:4], [3, 1, 0, 9])]
    file = place / "batch"

    def opens(draw: random.Random) -> None:
        if draw.random() < 0.05:
            return in_mine(draw)
        file.write_bytes(pickled(draw.choice(bases), draw))
        return require_pictures(formats.read_batches([file], "labels", None))

    def bomb(content: bytes) -> Callable:
        return lambda: file.write_bytes(content) and formats.read_batches([file], "labels", None)

    array = b"cnumpy\nndarray\n(J\x00\x00\x00\x10M\x00\x0c\x86X\x02\x00\x00\x00u1tR"
    begins = b"\x80\x04}(X\x04\x00\x00\x00data"
    objects = (
        b"cnumpy\ndtype\nX\x01\x00\x00\x00O\x89\x88\x87R(K\x03X\x01\x00\x00\x00|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    pointers = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01K\x01\x85" + objects + b"\x89C\x08AAAAAAAAtb"
    )
    return opens, {
        "numbers taken for objects": bomb(begins + pointers + b"u."),
        "an array never filled": bomb(begins + array + b"X\x06\x00\x00\x00labels]u."),
        "a memo of billions": bomb(begins + b"r\xff\xff\xff\x7fN u."),
        "a key hashed for ever": bomb(b"\x80\x04}" + doubled(b"\x86", 60) + b"K\x01s."),
        "labels for ever": bomb(
            begins + pickle.dumps(images[:2].reshape(2, 3072), 2)[2:-1]
            + b"X\x06\x00\x00\x00labels" + doubled(b"\x86", 60) + b"u."
        ),
        "a word of 2^62 bytes": bomb(begins + b"\x8e" + b"\x3f" * 8 + b"u."),
        "a call": bomb(begins + CALL + b"u."),
    }  # fmt: skip


def parquet(place: Path) -> tuple[Open, Bombs]:
    """Shards, and folders of them."""
    train_arrays, test_arrays = small_cifar(place)
    spec = catalog.SPECS["cifar10"]
    shards = place / "mine" / "cifar10" / "plain_text"
    for part, arrays in (("train", train_arrays), ("test", test_arrays)):
        write_shards(shards, part, arrays, spec)
    in_mine = in_folder(place / "mine", lambda content, draw: mutated(content, draw, True))
    few = tuple(a if a is None else a[:3] for a in train_arrays)
    write_shards(place, "one", few, spec)
    file = place / "one-00000-of-00001.parquet"
    base = file.read_bytes()

    def opens(draw: random.Random) -> None:
        if draw.random() < 0.03:
            return in_mine(draw)
        content = mutated(base, draw, tail=draw.random() < 0.8)
        if draw.random() < 0.05:  # the footer's length
            content = base[:-8] + struct.pack("<I", draw.randrange(2**32)) + b"PAR1"
        file.write_bytes(content)
        return require_pictures(formats.read_parquet([file], "label", None))

    def bomb(picture: bytes, rows: int) -> Callable:
        """One picture, said to come again and again in `rows` rows; the last row has none."""

        def opens() -> None:
            which = np.arange(rows, dtype=np.int32) == rows - 1
            pictures = pa.array([picture, b"no picture"])
            again = pa.DictionaryArray.from_arrays(which.astype(np.int32), pictures)
            img = pa.StructArray.from_arrays([again], ["bytes"])
            table = pa.table({"img": img, "label": np.zeros(rows, np.int64)})
            pq.write_table(table, file, compression="zstd", row_group_size=rows)
            assert file.stat().st_size < 100_000
            formats.read_parquet([file], "label", None)

        return opens

    plain = encoded(Image.new("RGB", (32, 32)))
    heavy = plain[:33] + chunk(b"prVt", bytes(8_000_000)) + plain[33:]
    none = pa.table({"img": [{"bytes": plain}], "label": [1]}).slice(0, 0)
    return opens, {
        "a million rows": bomb(plain, 1_000_000),
        "a heavy picture again and again": bomb(heavy, rounds(40, 400)),
        "pictures of 13,000 × 13,000": bomb(encoded(Image.new("1", (13_000, 13_000))), 9),
        "no rows": lambda: (
            pq.write_table(none, file),
            formats.read_parquet([file], "label", None),
        ),
    }


def caches(place: Path) -> tuple[Open, Bombs]:
    """What `proofs.keep` kept: the same comes back, or nothing."""
    train_arrays, test_arrays = small_cifar(place)
    digest = proofs.content_digest(train_arrays, test_arrays)
    made = proofs.Found("here", "unverified", digest, ("a",), None, train_arrays, test_arrays)
    file = place / "cifar10-a-b.npz"
    proofs.keep(file, made)
    base = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def recalled(content: bytes) -> None:
        file.write_bytes(content)
        found = proofs.recall(file)
        if found is None:
            raise formats.DataError("nothing is recalled")
        assert found.digest == proofs.content_digest(found.train, found.test) == digest

    def opens(draw: random.Random) -> None:
        recalled(mutated(base, draw, True) if draw.random() < 0.5 else rezipped(members, draw))

    def npy(shape: str, kind: str = "|u1", content: bytes = b"") -> bytes:
        head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content

    first = "train0.npy"
    call = pickle.dumps({"x": 1})[:-1] + CALL + b"."
    os.chdir(place)
    return opens, {
        "a shape of 2^40": lambda: recalled(
            zipped([*(members | {first: npy(f"({2**40},)")}).items()])
        ),
        "much in a small file": lambda: recalled(
            zeros_zipped(members | {first: npy(f"({MUCH},)")}, first, MUCH)
        ),
        "a pickle": lambda: recalled(
            zipped([*(members | {first: npy("(1,)", "|O", call)}).items()])
        ),
        "only a pickle": lambda: recalled(call),
    }


# --- What training leaves ------------------------------------------------------------------------


def require_plain(value: object) -> None:
    """Nothing but tensors and plain values in it."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set):
        for entry in value:
            require_plain(entry)
    else:
        kinds = int | float | complex | str | bytes | bytearray | None
        assert isinstance(value, kinds | Tensor | torch.Size | torch.dtype | torch.device)


def checkpoint_files(place: Path) -> tuple[Open, Bombs]:
    """Checkpoints: damaged, put together anew, and of other contents."""
    os.chdir(place)
    file = place / "a.pt"
    linear_job(file)
    base, whole = file.read_bytes(), checkpoints.load(file)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def opens(draw: random.Random) -> None:
        kind = draw.random()
        if kind < 0.5:
            file.write_bytes(mutated(base, draw, tail=draw.random() < 0.5))
            assert differences(whole, checkpoints.load(file)) == []
        elif kind < 0.95:
            file.write_bytes(rezipped(members, draw))
            require_plain(checkpoints.load(file))
        else:
            key = draw.choice(sorted(whole))
            torch.save(
                whole | {key: changed(whole[key], draw) if draw.random() < 0.5 else odd(draw)}, file
            )
            linear_job(file)

    def bomb(content: bytes) -> Callable:
        return lambda: file.write_bytes(content) and checkpoints.load(file)

    pickled = next(name for name in members if name.endswith("data.pkl"))
    stored = next(name for name in members if name.endswith("data/0"))
    calls = {
        f"a call in {name}": bomb(zipped([*(members | {name: b"\x80\x02" + CALL + b"."}).items()]))
        for name in (pickled, pickled.replace("data.pkl", "constants.pkl"))
    }
    return opens, calls | {
        "much in a small file": bomb(zeros_zipped(members, stored, MUCH)),
        "another that torch would not miss": bomb(zeros_zipped(members, "a/x", MUCH)),
        "2 GB said in the directory": bomb(
            base.replace(struct.pack("<I", len(members[stored])) * 2, b"\xff\xff\xff\x7f" * 2)
        ),
        "a call, and no zip": bomb(b"\x80\x02" + CALL + b"."),
    }


def reheaded(content: bytes, draw: random.Random) -> bytes:
    """Tensors whose head says something else of one of them."""
    size = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + size])
    name = draw.choice(sorted(head))
    field = draw.choice(("dtype", "shape", "data_offsets"))
    numbers = [draw.choice((*NUMBERS, 4, 16)) for _ in range(draw.randint(0, 4))]
    value = draw.choice((numbers, draw.choice(("F64", "U8", "BF16", "")), odd(draw)))
    head[name] = head.get(name, {}) | {field: value}
    if draw.random() < 0.2:
        head[draw.choice(("", "__metadata__", "../x", name * 50))] = head[name]
    made = json.dumps(head).encode()
    size = len(made) if draw.random() < 0.8 else draw.choice((0, 2**31, 2**60, 2**64 - 1))
    return size.to_bytes(8, "little") + made + content[8 + int.from_bytes(content[:8], "little") :]


def weight_files(place: Path) -> tuple[Open, Bombs]:
    """Shipped networks: the tensors, and the description beside them."""
    os.chdir(place)
    file = weights.save("net", network(), ABOUT, place)
    described = file.with_suffix(".json")
    base, about = file.read_bytes(), json.loads(described.read_text())

    def pair(content: bytes, text: bytes) -> None:
        file.write_bytes(content)
        described.write_bytes(text)
        model, said = weights.load("net", place)
        assert said["sha256"] == hashlib.sha256(content).hexdigest()
        assert len(said["classes"]) == model.fc.out_features

    def of(content: bytes, **changes: object) -> bytes:
        return json.dumps(
            about | {"sha256": hashlib.sha256(content).hexdigest()} | changes
        ).encode()

    def opens(draw: random.Random) -> None:
        kind = draw.random()
        content = mutated(base, draw) if draw.random() < 0.4 else reheaded(base, draw)
        if kind < 0.5:
            file.write_bytes(content)
            assert all(isinstance(t, Tensor) for t in weights.read(file).values())
        elif kind < 0.75:
            pair(content, of(content))  # a stranger wrote both
        else:
            pair(base, text_of(about, draw))

    def bomb(content: bytes, text: bytes | None = None) -> Callable:
        return lambda: pair(content, text or of(content))

    plan = about["architecture"]
    sizes = {
        "8 wide stages": {"layers": [1] * 8, "width": 1000},
        "7 stages": {"layers": [1] * 7, "width": 64},
        "8,000 blocks": {"layers": [1000] * 8, "width": 1},
    }
    huge = b'{"x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}'
    return opens, {
        **{name: bomb(base, of(base, architecture=plan | size)) for name, size in sizes.items()},
        **{f"JSON {i}": bomb(base, text) for i, text in enumerate(NESTED)},
        "a list of fields": bomb(base, json.dumps(weights.FIELDS).encode()),
        "a word of fields": bomb(base, json.dumps(" ".join(weights.FIELDS)).encode()),
        "a head of 2^60 bytes": bomb((2**60).to_bytes(8, "little") + base[8:]),
        "a shape of 2^40": bomb(len(huge).to_bytes(8, "little") + huge + bytes(4)),
        "deep in the head": bomb((200_000).to_bytes(8, "little") + NESTED[0]),
        "a call": bomb(b"\x80\x02" + CALL + b"."),
    }  # fmt: skip


# --- Pictures ------------------------------------------------------------------------------------


def picture_files(place: Path) -> tuple[Open, Bombs]:
    """Pictures in all formats, opened; some of them shown to a network."""
    options = {"JPEG": {"progressive": True}, "TIFF": {"compression": "tiff_lzw"}}
    small = RGB.resize((16, 12))
    bases = [
        encoded(small.convert("P") if kind == "GIF" else small, kind, **options.get(kind, {}))
        for kind in predict.pictures.FORMATS
    ]
    file, model = place / "picture", network()

    def opens(draw: random.Random) -> None:
        content = mutated(draw.choice(bases), draw)
        if draw.random() < 0.05:
            file.write_bytes(content)
            (found,) = predict.predict(model, ABOUT, file)
            assert abs(sum(found.probabilities)) <= 1.001 and len(found.classes) == 5
        else:
            picture = predict.open_picture(content, max_pixels=1_000_000)
            assert picture.mode == "RGB" and picture.width * picture.height <= 1_000_000

    def head_bomb(content: bytes) -> Callable:
        return lambda: predict.open_picture(content)

    return opens, {name: head_bomb(content) for name, (content, *_) in BAD.items()}


NAMES = ("a.png", "..png", "...", "-rf", "a b\n.png", "ä" * 60, "con", "~", "$HOME", "%s{0}")
NAMES += ("picture.pkl", "x.svg", ".hidden", "Thumbs.db", "\u202egnp.exe", "a\\..\\b.png")


def folders(place: Path) -> tuple[Open, Bombs]:
    """A reader's folder: names and links of all kinds, and what they lead to stays as it was."""
    outside = place / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    RGB.save(outside / "photo.png")
    before = sorted((p.name, p.read_bytes()) for p in outside.iterdir())
    count = iter(range(10**9))
    may_link = sys.platform != "win32"  # needs rights there

    def entry(path: Path, draw: random.Random) -> None:
        base, kind = encoded(Image.frombytes("RGB", (8, 8), draw.randbytes(192))), draw.randrange(8)
        if kind == 0 and may_link:
            targets = (outside, outside / "secret.txt", "/etc/passwd", "/dev/zero", "..", path.name)
            path.symlink_to(draw.choice(targets))
        elif kind == 1 and hasattr(os, "mkfifo"):
            os.mkfifo(path)
        elif kind == 2:
            path.mkdir()
            (path / "deep.png").write_bytes(mutated(base, draw))
        else:
            path.write_bytes(mutated(base, draw) if kind < 6 else base)

    def opens(draw: random.Random) -> None:
        root = place / f"mine{next(count)}"
        for name in ("one", "two", *draw.sample(NAMES, 2)):
            parent = root / name
            parent.mkdir(parents=True, exist_ok=True)
            for file in draw.sample(NAMES, 3):
                try:
                    entry(parent / file, draw)
                except OSError:  # a name that this system does not know
                    continue
        try:
            found = folder.read(root, size=8)
        finally:
            assert before == sorted((p.name, p.read_bytes()) for p in outside.iterdir())
        assert len(found.files) == len(found.split) and not found.split.images.isnan().any()
        assert "secret" not in str(found.skipped)
        for name in found.files:
            assert not Path(name).is_absolute() and ".." not in Path(name).parts

    return opens, {}


# --- Records -------------------------------------------------------------------------------------


def records(place: Path) -> tuple[Open, Bombs]:
    """Results of chapters and of studies, as the package and the book's tools read them."""
    runs.ROOT = place
    rows = [
        {"chapter": "04_x", "seed": i, "test_accuracy": 0.9, "seconds": 5.0, "date": "2026-01-01"}
        for i in range(3)
    ]
    result = {"seconds": 600.0, "speed": 900.5, "device": "CPU", "metrics": {"test_accuracy": 0.9}}
    history = {name: [0.5, 0.25] for name in ("train_loss", "lr", "seconds")}
    result |= {"history": history, "dataset": {"name": "cifar10", "stand_in": False}}
    file, study = place / "results/04_x.laptop.json", place / "results/studies/headlines.jsonl"
    study.parent.mkdir(parents=True)

    def read(text: bytes, lines: bytes) -> None:
        file.write_bytes(text)
        study.write_bytes(lines)
        for tool in (lambda: house.read(file), lambda: cells.rows_of("headlines", place)):
            try:
                tool()
            except ValueError as error:
                assert "does not hold what it should" in str(error)
        assert all(isinstance(row, dict) for row in runs.study("headlines"))
        assert all(0 <= accuracy <= 1 for accuracy in practice.recorded("04_x", "laptop"))
        assert "min" in runs.expected_time("04_x", "laptop", 1000.0)

    whole = json.dumps(result).encode(), "\n".join(map(json.dumps, rows)).encode()
    read(*whole)

    def opens(draw: random.Random) -> None:
        if draw.random() < 0.5:
            read(text_of(result, draw), whole[1])
        else:
            lines = [json.dumps(row).encode() for row in rows]
            at = draw.randrange(3)
            lines[at] = text_of(rows[at], draw)
            read(whole[0], b"\n".join(lines))

    bombs = {f"JSON {i}": lambda text=text: read(text, whole[1]) for i, text in enumerate(NESTED)}
    bombs |= {f"row {i}": lambda text=text: read(whole[0], text) for i, text in enumerate(NESTED)}
    return opens, bombs


# --- ONNX ----------------------------------------------------------------------------------------


def model_of(weight: TensorProto | None = None, op: str = "MatMul", domain: str = "") -> bytes:
    """A network in ONNX that goes by the mean color."""
    values = [weight or numpy_helper.from_array(np.ones((3, 4), np.float32), "W")]
    values.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
        helper.make_node(op, ["mean", "W"], ["logits"], domain=domain),
    ]
    put = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])
    got = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(nodes, "g", [put], [got], values)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("elsewhere", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def kept_at(location: str) -> bytes:
    """A network whose weights are said to be in another file."""
    weight = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[3, 4])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "48"}.items():
        weight.external_data.add(key=key, value=value)
    return model_of(weight)


def onnx_files(place: Path) -> tuple[Open, Bombs]:
    """Networks to be served: the model, and the description beside it."""
    os.chdir(place)
    file, base = place / "net.onnx", model_of()
    about = {"format": "onnx", "classes": list("abcd"), "mean": [0.5] * 3, "std": [0.2] * 3}
    about["input_size"] = 8
    (place / "numbers.bin").write_bytes(np.ones(12, np.float32).tobytes())

    def pair(content: bytes, text: bytes | None = None) -> None:
        said = about | {"sha256": hashlib.sha256(content).hexdigest()}
        file.write_bytes(content)
        file.with_suffix(".json").write_bytes(text or json.dumps(said).encode())
        export.session(file, 1)
        try:
            shares = Network(file)(np.zeros((2, 3, 8, 8), np.uint8))
        except ValueError as error:  # what `serve` says in a line
            raise weights.WeightsError(str(error)) from error
        assert shares.shape == (2, 4) and np.allclose(shares.sum(1), 1)

    pair(base)
    whole = about | {"sha256": hashlib.sha256(base).hexdigest()}

    def opens(draw: random.Random) -> None:
        if draw.random() < 0.8:
            pair(mutated(base, draw))
        else:
            pair(base, text_of(whole, draw))

    places = ("numbers.bin", "../numbers.bin", "../../../../etc/passwd", "/etc/passwd", "/dev/zero")
    places += (str(place / "numbers.bin"),)
    return opens, {
        **{f"weights in {where}": lambda at=where: pair(kept_at(at)) for where in places},
        **{f"JSON {i}": lambda text=text: pair(base, text) for i, text in enumerate(NESTED)},
        "an operator of its own": lambda: pair(model_of(op="Run", domain="elsewhere")),
        "another operator": lambda: pair(model_of(op="PyOp", domain="ai.onnx.contrib")),
    }  # fmt: skip


# --- Archives ------------------------------------------------------------------------------------


def tar_of(*members: tuple[str, dict, bytes]) -> bytes:
    """A tar with such members: name, what tarfile.TarInfo says of it, content."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, said, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in said.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def escapes(outside: Path) -> dict[str, bytes]:
    """Tars with a member that would be written outside the folder, or is no file."""
    link, hard = {"type": tarfile.SYMTYPE}, {"type": tarfile.LNKTYPE}
    up = "../outside/x"
    return {
        "up": tar_of((up, {}, b"x")),
        "up from within": tar_of(("in/a", {}, b"a"), (f"in/../{up}", {}, b"x")),
        "absolute link": tar_of(("l", link | {"linkname": str(outside)}, b""), ("l/x", {}, b"x")),
        "link up": tar_of(("l", link | {"linkname": "../outside"}, b""), ("l/x", {}, b"x")),
        "hard link": tar_of(("l", hard | {"linkname": "../outside/secret"}, b""), ("l", {}, b"x")),
        "device": tar_of(("zero", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}, b"")),
        "pipe": tar_of(("pipe", {"type": tarfile.FIFOTYPE}, b"")),
    }


def snapshot(place: Path) -> list[tuple]:
    """All that a folder holds, and what it is."""
    return sorted(
        (str(p), p.lstat().st_mode, p.is_file() and p.read_bytes()) for p in place.rglob("*")
    )


def archives(place: Path) -> tuple[Open, Bombs]:
    """The official archive, unpacked as its download unpacks it. Errors end in `fetch.NotHad`."""
    outside = place / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    before, count = snapshot(outside), iter(range(10**9))
    good = tar_of(*((f"cifar-10-batches-py/data_batch_{i}", {}, bytes(600)) for i in range(3)))

    def unpack(content: bytes) -> None:
        file, target = place / "a.tar.gz", place / f"target{next(count)}"
        file.write_bytes(gzip.compress(content, 1))
        try:
            extract_archive(file, target)
        except Exception as error:
            raise formats.DataError(f"not had: {error!r}") from error
        finally:
            assert snapshot(outside) == before
            assert {p.name for p in place.iterdir()} <= {"outside", "a.tar.gz", target.name}
            for path in target.rglob("*"):
                assert path.is_symlink() or path.is_file() or path.is_dir()
            if target.is_dir():
                shutil.rmtree(target)
            target.unlink(missing_ok=True)  # of a member named as the folder itself

    named = [*escapes(outside).values(), good]

    def opens(draw: random.Random) -> None:
        content = bytearray(mutated(draw.choice(named), draw))
        for at in range(0, len(content) - 511, 512):  # checksums right, so that fields count
            if content[at + 257 : at + 262] == b"ustar":
                content[at + 148 : at + 156] = b" " * 8
                content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
        unpack(bytes(content))

    return opens, {name: lambda c=c: unpack(c) for name, c in escapes(outside).items()}


KINDS: dict[str, Callable[[Path], tuple[Open, Bombs]]] = {
    "dataset pickles": pickles,
    "parquet shards": parquet,
    "decoded pictures kept": caches,
    "checkpoints": checkpoint_files,
    "weights": weight_files,
    "pictures": picture_files,
    "folders": folders,
    "records": records,
    "onnx": onnx_files,
    "archives": archives,
}


SEEN = {  # what `batch` says of kinds that it has to see
    "a crash": "the process ended with",
    "a hang": "the process ended with 1",
    "much memory": "memory grew by",
    "another exception": "KeyError",
    "a bomb that opens": "it was not refused",
}
KINDS |= {
    "a crash": lambda _: (lambda draw: faulthandler._sigsegv(), {}),
    "a hang": lambda _: (lambda draw: time.sleep(99), {}),
    "much memory": lambda _: (lambda draw: bytearray(ROOM * 2**20 + 2**25), {}),
    "another exception": lambda _: (lambda draw: {}[draw.random()], {}),
    "a bomb that opens": lambda _: (lambda draw: None, {"it": lambda: None}),
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SEEN])
def test_a_hostile_file_is_read_rightly_or_refused(kind, tmp_path):
    """Also: it takes little time and memory, and runs no code."""
    found = batch(kind, rounds(40, 10_000), tmp_path)
    assert found["refused"] > found["inputs"] / 10  # they do reach what they attack
    assert not list(tmp_path.rglob("it-has-run"))
    figures("hostile", kind, **found)


@pytest.mark.parametrize("kind", list(SEEN))
def test_what_is_not_refused_is_seen_and_named(kind, tmp_path):
    with pytest.raises(pytest.fail.Exception, match=rf"{kind}, file (0|it): (?s:.*){SEEN[kind]}"):
        batch(kind, 3, tmp_path, longest=3.0 if kind == "a hang" else LONGEST)


# --- Each trap is one ----------------------------------------------------------------------------


def test_the_call_in_a_pickle_would_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EOFError):
        pickle.loads(b"\x80\x02" + CALL)
    assert (tmp_path / "it-has-run").is_dir()


def test_an_archive_without_a_filter_would_write_elsewhere(tmp_path):
    for name, content in escapes(tmp_path / "outside").items():
        if "link" not in name and "up" not in name:
            continue
        outside, target = tmp_path / "outside", tmp_path / name
        outside.mkdir(exist_ok=True)
        target.mkdir()
        (outside / "secret").write_bytes(b"secret")
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(target, filter="fully_trusted")
        wrote = [path.read_bytes() for path in outside.iterdir() if path.read_bytes() == b"x"]
        reached = (target / "l").exists() and (target / "l").samefile(outside / "secret")
        assert wrote or reached, name
        for path in outside.iterdir():
            path.unlink()


def test_a_packed_checkpoint_would_become_large(tmp_path):
    linear_job(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    bomb = zeros_zipped(members, "a/x", 2**26)
    assert len(bomb) < 2**20
    with zipfile.ZipFile(io.BytesIO(bomb)) as archive:
        assert archive.testzip() is None and len(archive.read("a/x")) >= 2**26


@pytest.mark.skipif(sys.platform == "win32", reason="opens a file by a name of Linux and macOS")
def test_weights_in_another_file_would_be_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers.bin").write_bytes(np.ones(12, np.float32).tobytes())
    export.onnxruntime.InferenceSession(kept_at("numbers.bin"))
    with pytest.raises(weights.WeightsError, match=r"net\.onnx is not a model"):
        export._open(kept_at("numbers.bin"), "net.onnx")


# --- What is right is read -----------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_batches_of_either_python_are_read(protocol, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
    labels = [3, 1, 0, 9]
    flat = images.reshape(4, 3072)
    kinds = [python2_batch(images, labels)]
    kinds.append(pickle.dumps({"labels": labels, "data": flat, "again": flat}, protocol))
    turned = {"labels": np.array(labels), "data": np.asfortranarray(flat)}
    kinds.append(pickle.dumps(turned, protocol))
    for content in kinds:
        (tmp_path / "batch").write_bytes(content)
        found, said, _ = formats.read_batches([tmp_path / "batch"], "labels", None)
        assert np.array_equal(found, images) and said.tolist() == labels


def test_the_download_unpacks_nothing_outside_its_folder(tmp_path):
    """Its program, which finds the archive there already and so needs no network."""
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    file = target / "cifar-10-python.tar.gz"
    file.write_bytes(gzip.compress(escapes(outside)["up"]))
    arguments = [f"http://127.0.0.1:9/{file.name}", proofs.file_digest(file, "md5"), str(target)]
    ended = subprocess.run([sys.executable, "-c", fetch.ARCHIVE, *arguments], capture_output=True)
    assert ended.returncode == 1 and b"OutsideDestinationError" in ended.stderr
    assert not list(outside.iterdir())


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="needs rights to link")
def test_the_name_of_a_network_leads_nowhere_else(tmp_path):
    weights.save("net", network(), ABOUT, tmp_path / "elsewhere")
    (tmp_path / "weights").mkdir()
    for name in ("../elsewhere/net", str(tmp_path / "elsewhere" / "net"), "", "x" * 5000, "a\0b"):
        with pytest.raises(weights.WeightsError, match="no weights"):
            weights.load(name, tmp_path / "weights")


NETWORK = network()

# --- Values and command lines, drawn by hypothesis -----------------------------------------------

DRAWN = settings(
    max_examples=rounds(60, 10_000),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=9), v, max_size=4)
)
PLANS = st.fixed_dictionaries(
    {"block": st.sampled_from(["BasicBlock", "Bottleneck"]) | VALUES},
    optional={
        "layers": st.lists(st.integers(0, 3), max_size=4) | VALUES,
        "width": st.integers(0, 9) | VALUES,
        "num_classes": st.integers(0, 9) | VALUES,
        "stem": st.sampled_from(["cifar", "imagenet"]) | VALUES,
        "shortcut": st.sampled_from(["pad", "projection"]) | VALUES,
    },
)


@DRAWN
@given(plan=PLANS | VALUES)
def test_any_architecture_is_built_or_refused(plan):
    try:
        with torch.device("meta"):  # counted, not filled
            model = weights.build(plan)
    except weights.WeightsError as error:
        assert str(error)
    else:
        assert sum(p.numel() for p in model.parameters()) < 3e8


@DRAWN
@given(about=st.fixed_dictionaries({k: st.just(v) | VALUES for k, v in ABOUT.items()}) | VALUES)
def test_any_description_is_enough_to_predict_or_refused(about):
    try:
        (found,) = predict.predict(NETWORK, about, RGB)
    except weights.WeightsError as error:
        assert str(error)
    else:
        assert len(found.probabilities) == 5


WORDS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
NUMBER = st.integers().map(str) | st.floats().map(str) | st.sampled_from(["0", "1", "1e9", "nan"])
KNOWN = st.sampled_from(
    "cifar10 cifar100 imagefolder smoke laptop gpu resnet10 resnet50 imagenet_resnet18 "
    "cpu auto batch group fp32 04 01 05_cifar net.onnx".split()
)


def lines_for(*names: str) -> st.SearchStrategy:
    """Command lines: options that there are, with values that fit and others."""
    option = st.sampled_from([f"--{name}" for name in names]) | st.just("--") | WORDS
    pair = st.tuples(option, KNOWN | NUMBER | WORDS)
    return st.lists(pair, max_size=5).map(lambda pairs: [word for pair in pairs for word in pair])


LINES = {"loaded": 0, "refused": 0}


def parsed(parse: Callable, line: list[str]) -> object | None:
    """What a command line is taken for; None where it is refused, in words and with status 2."""
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(said):
        try:
            taken = parse(line)
            LINES["loaded"] += 1
            return taken
        except TrainError as error:
            assert str(error)
        except SystemExit as end:
            assert end.code == 2 or (
                (end.code == 0 and "--help".startswith(tuple(line))) or "-h" in line
            )
            assert said.getvalue()
    LINES["refused"] += 1
    return None


def whole_number(value: object, least: int) -> bool:
    return isinstance(value, int) and least <= value < 2**63


@DRAWN
@given(
    line=lines_for(*(name for part in (train.WHAT, train.HOW, train.WHERE) for name, *_ in part))
)
def test_a_command_line_of_train_is_possible_or_refused(line):
    taken = parsed(train.settings, line)
    if taken is not None:
        for name in ("epochs", "batch", "accumulate", "width", "size"):
            assert whole_number(getattr(taken, name), 1), name
        for name in ("workers", "hold_out", "seed"):
            assert whole_number(getattr(taken, name), 0), name
        for name in ("rate", "warmup", "decay", "smoothing"):
            assert 0 <= getattr(taken, name) < float("inf"), name


ZOO = "dataset data budget pretrained epochs batch train-pictures test-pictures size rate workers"


@DRAWN
@given(
    line=lines_for(*ZOO.split(), "seed", "device", "out"),
    name=st.sampled_from(sorted(zoo.NETWORKS)),
)
def test_a_command_line_of_the_zoo_is_possible_or_refused(line, name):
    taken = parsed(zoo.settings, [name, *line])
    if taken is not None and taken.name is not None:
        for option in ("epochs", "batch", "size"):
            assert whole_number(getattr(taken, option), 1), option
        for option in ("workers", "seed"):
            assert whole_number(getattr(taken, option), 0), option
        assert taken.rate is None or 0 <= taken.rate < float("inf")


@DRAWN
@given(line=lines_for("host", "port", "workers", "threads", "max-bytes", "max-queue", "timeout"))
def test_a_command_line_of_serve_is_possible_or_refused(line):
    taken = parsed(serve.parser().parse_args, ["net.onnx", *line])
    if taken is not None:
        assert taken.workers >= 1 and taken.port >= 0 and 0.1 <= taken.timeout < float("inf")


@DRAWN
@given(line=lines_for("out", "int8", "pictures"))
def test_a_command_line_of_export_is_possible_or_refused(line):
    taken = parsed(export_program.parser().parse_args, ["net", "--out", "served", *line])
    assert taken is None or isinstance(taken.pictures, int)


@DRAWN
@given(line=lines_for("budget", "force", "keep-outputs", "allow-stand-in"))
def test_a_command_line_of_execute_is_possible_or_refused(line):
    """With every chapter fresh, and nothing to force: none is run."""
    asked = []

    def parse(words: list[str]) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["execute.py", *words])
            patch.setattr(execute, "is_fresh", lambda path, budget, _: asked.append(budget) or True)
            patch.setattr(
                execute, "execute", lambda *_: (_ for _ in ()).throw(execute.Refused("no"))
            )
            patch.setattr(execute, "write_all", lambda files: None)
            patch.setattr(execute.opening, "expected", dict)
            patch.setattr(execute.tables, "expected", dict)
            return execute.main()

    assert parsed(parse, line) in (None, 0, 1)
    assert set(asked) <= {"smoke", "laptop", "gpu"}


def test_command_lines_were_drawn_that_are_possible_and_that_are_not():
    """Runs after the five above, or says nothing."""
    if not sum(LINES.values()):
        pytest.skip("no command line was drawn in this run")
    assert all(LINES.values())
    figures("hostile", "command lines", inputs=sum(LINES.values()), **LINES)
