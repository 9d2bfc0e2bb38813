"""A stand-in for CIFAR: pictures drawn by arithmetic, for machines without the real ones.

`make` draws 32 × 32 color pictures of 10 or 100 classes. A class is a shape and a texture; color,
place, size, rotation, background, clutter and noise say nothing about it. Everything is integer
arithmetic on raw generator bits, so the bytes are the same on every machine and version.
`write_official` lays them out on disk as the official archives do.
"""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # images, labels, coarse labels

CHUNK = 500  # pictures drawn at once; part of what defines the bytes


def _sine_table() -> np.ndarray:
    """sin of 256 steps of a turn, in 1/1024, by Bhaskara's rational approximation."""
    x = np.arange(128, dtype=np.int32)  # half a turn
    half = 1024 * 16 * x * (128 - x) // (5 * 128 * 128 - 4 * x * (128 - x))
    return np.concatenate([half, -half])


SINE = _sine_table()

# A shape says for (u, v), in 1/64 of its radius with v pointing down, whether a pixel is inside.
SHAPES = {
    "disc": lambda u, v: u * u + v * v < 64 * 64,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) < 56,
    "triangle": lambda u, v: (v < 40) & (7 * abs(u) - 4 * v < 4 * 64),
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) < 22) & (np.maximum(abs(u), abs(v)) < 64),
    "ring": lambda u, v: abs(u * u + v * v - 53 * 53) < 37 * 37,
    "bar": lambda u, v: (abs(u) < 24) & (abs(v) < 72),
    "frame": lambda u, v: abs(np.maximum(abs(u), abs(v)) - 46) < 14,
    "half": lambda u, v: (u * u + v * v < 72 * 72) & (v > -12),
    "crescent": lambda u, v: (u * u + v * v < 66 * 66) & ((u - 30) ** 2 + v * v > 54 * 54),
    "bowtie": lambda u, v: (abs(u) < 62) & (abs(v) < abs(u) + 6),
    "ell": lambda u, v: (np.maximum(abs(u), abs(v)) < 58) & ((u < -12) | (v > 12)),
    "tee": lambda u, v: (np.maximum(abs(u), abs(v)) < 58) & ((abs(u) < 22) | (v < -16)),
    "pair": lambda u, v: (abs(abs(u) - 38) < 20) & (abs(v) < 62),
    "chevron": lambda u, v: (abs(v + abs(u) - 24) < 26) & (abs(u) < 62),
    "wedge": lambda u, v: (u * u + v * v < 76 * 76) & (v + 40 > abs(u)) & (v > -36),
    "pacman": lambda u, v: (u * u + v * v < 66 * 66) & (abs(v) > u),
    "staple": lambda u, v: (np.maximum(abs(u), abs(v)) < 58) & ((abs(u) > 24) | (v > 24)),
    "dots": lambda u, v: (abs(u) - 36) ** 2 + (abs(v) - 36) ** 2 < 27 * 27,
    "star": lambda u, v: abs(u * v) < 12 * 12 + 0 * u,
    "egg": lambda u, v: u * u * 5 + v * v * 2 < 2 * 74 * 74,
}

# A texture says which of the shape's two colors a pixel has; `step` is the width of a stripe.
TEXTURES = {
    "stripes": lambda u, v, step: (u // step) & 1,
    "checks": lambda u, v, step: (u // step + v // step) & 1,
    "rings": lambda u, v, step: (np.maximum(abs(u), abs(v)) // step) & 1,
    "spots": lambda u, v, step: (u // step) & (v // step) & 1,
    "plain": lambda u, v, step: 0 * u,
}

SHAPES_OF = {10: tuple(SHAPES)[:5], 100: tuple(SHAPES)}
TEXTURES_OF = {10: tuple(TEXTURES)[:2], 100: tuple(TEXTURES)}


def class_names(classes: int) -> tuple[str, ...]:
    """"disc-stripes" and so on: shape by shape, its textures together."""
    return tuple(f"{s}-{t}" for s in SHAPES_OF[classes] for t in TEXTURES_OF[classes])


def superclass_names(classes: int) -> tuple[str, ...] | None:
    """The 20 shapes, for 100 classes; None for 10."""
    return SHAPES_OF[classes] if classes == 100 else None


def _draw(label: np.ndarray, classes: int, seed: list[int]) -> np.ndarray:
    """Pictures `(n, 3, 32, 32) uint8` of the classes in `label`."""
    n = len(label)
    bits = np.random.PCG64(seed)
    fields = bits.random_raw(n * 8).view(np.uint8).reshape(64, n, 1, 1).astype(np.int32)
    draws = iter(fields)  # 64 draws of 0..255 a picture

    def between(low: int, high: int) -> np.ndarray:
        return low + (next(draws) * (high - low) >> 8)

    y, x = np.mgrid[0:32, 0:32].astype(np.int32)
    radius = between(9 * 64, 14 * 64)  # in 1/64 of a pixel
    middle_x, middle_y = between(11 * 64, 21 * 64), between(11 * 64, 21 * 64)
    angle = next(draws)
    cosine, sine = SINE[(angle + 64) & 255], SINE[angle]
    dx, dy = x * 64 + 32 - middle_x, y * 64 + 32 - middle_y
    u = (dx * cosine + dy * sine) // (16 * radius)  # 1/64 of the radius
    v = (dy * cosine - dx * sine) // (16 * radius)
    step = between(17, 25)
    phase_u, phase_v = next(draws), next(draws)

    inside = np.empty((n, 32, 32), dtype=bool)
    weave = np.empty((n, 32, 32), dtype=np.int32)
    shapes, textures = SHAPES_OF[classes], TEXTURES_OF[classes]
    for number, shape in enumerate(shapes):
        mine = label // len(textures) == number
        inside[mine] = SHAPES[shape](u[mine], v[mine])
    for number, texture in enumerate(textures):
        mine = label % len(textures) == number
        shift = (0, 0) if texture == "rings" else (phase_u[mine], phase_v[mine])
        weave[mine] = TEXTURES[texture](u[mine] + shift[0], v[mine] + shift[1], step[mine])

    image = np.empty((n, 3, 32, 32), dtype=np.uint8)
    noise = bits.random_raw(n * 3 * 32 * 32 // 8).view(np.uint8).reshape(n, 3, 32, 32)
    amplitude = between(30, 90)
    slope_x, slope_y = between(-3, 4), between(-3, 4)
    for channel in range(3):
        back = between(40, 216) + slope_x * (x - 16) + slope_y * (y - 16)
        front = between(0, 256)
        other = front + between(40, 90) * (1 - 2 * (next(draws) & 1))
        value = np.where(inside, np.where(weave, front, other), back)
        value += (noise[:, channel].astype(np.int32) - 128) * amplitude >> 8
        image[:, channel] = value.clip(0, 255)
    return image


def _split(n: int, classes: int, seed: int, part: int) -> Arrays:
    keys = np.random.PCG64([seed, part]).random_raw(n)
    labels = (np.arange(n, dtype=np.int64) % classes)[np.argsort(keys, kind="stable")]
    chunks = [(labels[i : i + CHUNK], classes, [seed, part, i]) for i in range(0, n, CHUNK)]
    with ThreadPoolExecutor(2) as pool:
        images = np.concatenate(list(pool.map(lambda chunk: _draw(*chunk), chunks)))
    return images, labels, labels // 5 if classes == 100 else None


def make(n_train: int, n_test: int, classes: int = 10, seed: int = 0) -> tuple[Arrays, Arrays]:
    """Draw a training and a test split: each (images, labels, coarse labels or None).

    images `(n, 3, 32, 32) uint8`, labels `(n,) int64` with the same number of every class (give
    or take one) in random order. classes: 10, or 100 in 20 superclasses of 5.
    """
    if classes not in SHAPES_OF:
        raise ValueError(f"the stand-in has 10 or 100 classes, not {classes}")
    return _split(n_train, classes, seed, 0), _split(n_test, classes, seed, 1)


def write_official(
    folder: str | Path, name: str, n_train: int = 50_000, n_test: int = 10_000, seed: int = 0
) -> Path:
    """Write a stand-in into `folder` in the layout of the official archive of `name`.

    Returns the folder made, `cifar-10-batches-py` or `cifar-100-python`. torchvision's CIFAR10
    and CIFAR100 read it once their MD5 entries are None; `data.load` knows it for a stand-in.
    """
    classes = {"cifar10": 10, "cifar100": 100}[name]
    train, test = make(n_train, n_test, classes, seed)
    folder = Path(folder) / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python")
    folder.mkdir(parents=True, exist_ok=True)

    def dump(filename: str, content: dict) -> None:
        (folder / filename).write_bytes(pickle.dumps(content, protocol=2))

    def batch(arrays: Arrays, part: slice) -> dict:
        images, labels, coarse = (None if a is None else a[part] for a in arrays)
        rows = {"data": images.reshape(len(images), 3072)}
        if coarse is None:
            return rows | {"labels": labels.tolist()}
        return rows | {"fine_labels": labels.tolist(), "coarse_labels": coarse.tolist()}

    if classes == 10:
        edges = [n_train * i // 5 for i in range(6)]
        for i in range(5):
            dump(f"data_batch_{i + 1}", batch(train, slice(edges[i], edges[i + 1])))
        dump("test_batch", batch(test, slice(None)))
        dump("batches.meta", {"label_names": list(class_names(10)), "stand_in": True})
    else:
        dump("train", batch(train, slice(None)))
        dump("test", batch(test, slice(None)))
        names = {
            "fine_label_names": list(class_names(100)),
            "coarse_label_names": list(superclass_names(100)),
        }
        dump("meta", names | {"stand_in": True})
    return folder
