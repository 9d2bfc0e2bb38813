"""Reading CIFAR's two file layouts into arrays: parquet shards and the official pickles.

Every fault is a DataError that names the file, what was found and what was expected. Nothing is
returned unless everything is read.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # images, labels, coarse labels


MOST = 60_000  # pictures in a split: more than CIFAR's largest, which has 50,000


class DataError(RuntimeError):
    """Files are not the data set they should be; says which, what was found and what to do."""


def _decode(file: str, content: bytes | None) -> np.ndarray:
    """One encoded picture as `(3, 32, 32) uint8`."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "WEBP")) as image:
            size = image.size  # judged before pixels are decoded, which can be many
            pixels = np.asarray(image.convert("RGB")) if size == (32, 32) else None
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise DataError(f"{file} holds a picture that cannot be decoded: {error}") from error
    if pixels is None:
        raise DataError(f"{file} holds a picture of {size[0]}×{size[1]} pixels, not 32×32")
    return pixels.transpose(2, 0, 1)


def read_parquet(files: list[Path], label: str, coarse: str | None) -> Arrays:
    """The shards of one split, in order. label, coarse: names of the label columns."""
    wanted = ["img", label] + ([coarse] if coarse else [])
    images, labels = [], {name: [] for name in wanted[1:]}
    for path in files:
        try:
            with pq.ParquetFile(path) as shard, ThreadPoolExecutor(2) as pool:
                names = shard.schema_arrow.names
                missing = [name for name in wanted if name not in names]
                if missing:
                    raise DataError(
                        f"{path.name} has no column {missing[0]!r}, only {', '.join(names)}"
                    )
                # Few at a time: a small file can say that one large picture comes again and again.
                for rows in shard.iter_batches(64, columns=wanted):
                    if max(shard.metadata.num_rows, len(images)) > MOST:
                        raise DataError(f"{path.name}: over {MOST:,} pictures, CIFAR has fewer")
                    for name in labels:
                        labels[name].append(_integers(rows[name], f"{path.name}: column {name!r}"))
                    decode = partial(_decode, path.name)  # Pillow does it without Python's lock
                    images += pool.map(decode, _encoded(rows["img"], path.name))
        except (pa.ArrowException, OSError, UnicodeError) as error:  # names that are no text
            raise DataError(f"{path.name} is not a whole parquet file: {error}") from error
    if not images:
        raise DataError(f"{files[0].name} holds no picture")
    joined = [np.concatenate(labels[name]) for name in wanted[1:]]
    return np.stack(images), joined[0], joined[1] if coarse else None


def _integers(column: pa.Array, what: str) -> np.ndarray:
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DataError(f"{what} must hold integers, no gaps")
    return column.to_numpy().astype(np.int64)


def _encoded(pictures: pa.Array, file: str) -> list[bytes | None]:
    if not pa.types.is_struct(pictures.type) or pictures.type.get_field_index("bytes") < 0:
        raise DataError(f"{file}: column 'img' must hold structs with a field 'bytes'")
    return pictures.field("bytes").to_pylist()


# Opcodes after which a word, a function or an array is on top of a pickle's stack.
NAMED = frozenset(
    "SHORT_BINSTRING BINSTRING STRING SHORT_BINUNICODE BINUNICODE UNICODE SHORT_BINBYTES BINBYTES "
    "GLOBAL STACK_GLOBAL REDUCE BUILD".split()
)


class _Stub:
    """What a pickle asks NumPy to make, not made: NumPy can be told to take numbers for objects."""

    def __init__(self, *made_of):
        self.made_of = made_of

    def __setstate__(self, state):
        self.state = state


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain containers, and stubs of arrays: a pickle can name any function to be called."""

    def find_class(self, module: str, name: str):
        if (module, name) == ("_codecs", "encode"):
            return lambda text, _: text.encode("latin1")
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Stub
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _Stub
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which CIFAR files never do")


def _require_a_tree(content: bytes) -> None:
    """Raise UnpicklingError for a pickle in which a few bytes stand for more than memory or time.

    A container within itself doubles at every step, and a far place in the memo makes all places
    before it. CIFAR files name only words and arrays twice.
    """
    before, puts, names = "", 0, set()
    for code, argument, _ in pickletools.genops(content):
        if "PUT" in code.name or code.name == "MEMOIZE":
            place, puts = puts if argument is None else argument, puts + 1
            if place > len(content):
                raise pickle.UnpicklingError(f"it remembers {place:,} things")
            (names.add if before in NAMED else names.discard)(place)
        elif code.name == "DUP" or ("GET" in code.name and argument not in names):
            raise pickle.UnpicklingError("it holds the same container twice")
        else:
            before = code.name if code.name not in ("PROTO", "FRAME") else before


def _array(stub: _Stub) -> np.ndarray:
    """The array that a stub stands for; whole numbers only."""
    _, shape, kind, by_columns, content = stub.state
    dtype = np.dtype(kind.state[1] + kind.made_of[0])  # order of bytes, type: "|u1"
    if dtype.kind not in "iu":
        raise TypeError(f"it holds an array of {dtype}, not of whole numbers (uint8)")
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")


def read_pickle(path: Path) -> dict:
    """One file of the official layout, by the restricted unpickler."""
    try:
        pickled = path.read_bytes()
        _require_a_tree(pickled)
        content = _PlainUnpickler(io.BytesIO(pickled), encoding="latin1").load()
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__}, no dict")
        return {k: _array(v) if isinstance(v, _Stub) else v for k, v in content.items()}
    except FileNotFoundError as error:
        raise DataError(f"{path.parent.name} is incomplete: {path.name} is missing") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path.name} is not a CIFAR batch: {error}") from error


def read_batches(files: list[Path], label: str, coarse: str | None) -> Arrays:
    """The batch files of one split, in order. label, coarse: keys of the label lists."""
    parts = []
    for path in files:
        batch = read_pickle(path)
        wanted = ["data", label] + ([coarse] if coarse else [])
        for key in wanted:
            if key not in batch:
                raise DataError(f"{path.name} is not a CIFAR batch: it has no entry {key!r}")
        data = batch["data"]
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
            raise DataError(f"{path.name}: 'data' must be a uint8 array of 3072 columns")
        part = [data.reshape(-1, 3, 32, 32)]
        for key in wanted[1:]:
            values = batch[key]
            if isinstance(values, list) and all(isinstance(value, int) for value in values):
                values = np.asarray(values)
            shape = values.shape if isinstance(values, np.ndarray) else None
            if shape != (len(data),) or values.dtype.kind not in "iu":
                raise DataError(f"{path.name}: {key!r} must be {len(data)} integers")
            part.append(values.astype(np.int64))
        parts.append(part)
    images, *labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return images, labels[0], labels[1] if coarse else None
