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

CHUNK = 250  # pictures drawn at once; part of what defines the bytes


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
    "bar": lambda u, v: (abs(u) < 26) & (abs(v) < 72),
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
    "star": lambda u, v: (abs(u * v) < 18 * 18) & (u * u + v * v < 76 * 76),
    "egg": lambda u, v: u * u * 5 + v * v * 2 < 2 * 74 * 74,
}

# A texture says for (u, v), now in stripes' widths, which of the shape's two colors a pixel has.
TEXTURES = {
    "stripes": lambda u, v: u & 1,
    "checks": lambda u, v: (u + v) & 1,
    "rings": lambda u, v: np.maximum(u ^ (u >> 31), v ^ (v >> 31)) & 1,
    "spots": lambda u, v: u & v & 1,
    "plain": lambda u, v: 0 * u,
}

SHAPES_OF = {10: tuple(SHAPES)[:5], 100: tuple(SHAPES)}
TEXTURES_OF = {10: tuple(TEXTURES)[:2], 100: tuple(TEXTURES)}


def class_names(classes: int) -> tuple[str, ...]:
    """ "disc-stripes" and so on: shape by shape, its textures together."""
    return tuple(f"{s}-{t}" for s in SHAPES_OF[classes] for t in TEXTURES_OF[classes])


def superclass_names(classes: int) -> tuple[str, ...] | None:
    """The 20 shapes, for 100 classes; None for 10."""
    return SHAPES_OF[classes] if classes == 100 else None


def _draw(labels: np.ndarray, classes: int, seed: list[int]) -> np.ndarray:
    """Pictures `(n, 3, 32, 32) uint8` of the classes in `labels`."""
    n = len(labels)
    bits = np.random.PCG64(seed)
    # 64 draws of 0..255 a picture. "<u8": the order of bytes, too, is the same on every machine.
    drawn = bits.random_raw(n * 8).astype("<u8").view(np.uint8).reshape(64, n, 1, 1)
    draws = iter(drawn.astype(np.int32))

    def between(low: int, high: int) -> np.ndarray:
        """A number from low up to, not including, high for each picture: `(n, 1, 1)`."""
        return low + (next(draws) * (high - low) >> 8)

    # Every pixel seen from the shape, in 1/64 of its radius: u to its right, v down.
    y, x = np.mgrid[0:32, 0:32].astype(np.int32)
    radius, angle = between(9 * 64, 14 * 64), next(draws)  # 1/64 pixel, 1/256 turn
    dx = x * 64 + 32 - between(12 * 64, 20 * 64)
    dy = y * 64 + 32 - between(12 * 64, 20 * 64)
    cosine, sine, zoom = SINE[(angle + 64) & 255], SINE[angle], (64 << 12) // radius
    u = ((dx * cosine + dy * sine) >> 10) * zoom >> 12
    v = ((dy * cosine - dx * sine) >> 10) * zoom >> 12

    shapes, textures = SHAPES_OF[classes], TEXTURES_OF[classes]
    inside, light = np.empty((2, n, 32, 32), dtype=bool)
    per_stripe, shift_u, shift_v = (1 << 12) // between(19, 27), next(draws), next(draws)
    for number, shape in enumerate(shapes):
        mine = labels // len(textures) == number
        inside[mine] = SHAPES[shape](u[mine], v[mine])
    for number, texture in enumerate(textures):
        mine = labels % len(textures) == number
        shift = (0, 0) if texture == "rings" else (shift_u[mine], shift_v[mine])
        light[mine] = TEXTURES[texture](
            (u[mine] + shift[0]) * per_stripe[mine] >> 12,
            (v[mine] + shift[1]) * per_stripe[mine] >> 12,
        )

    # A band of one color hides some of the rest: noise that is not independent from pixel to pixel.
    angle, place, width = next(draws), between(-14, 15), between(0, 3)
    across = (x - 16) * SINE[(angle + 64) & 255] + (y - 16) * SINE[angle] >> 10
    band = abs(across - place) < width

    noise = bits.random_raw(n * 384).astype("<u8").view(np.uint8).reshape(n, 3, 32, 32)
    loudness, slope_x, slope_y = between(32, 92), between(-3, 4), between(-3, 4)
    fading = between(0, 400)  # in a few pictures the texture can hardly be seen
    slope = slope_x * (x - 16) + slope_y * (y - 16)
    images = np.empty((n, 3, 32, 32), dtype=np.uint8)
    for channel in range(3):
        behind, front = between(10, 180), between(80, 250)
        contrast = np.minimum(fading, between(60, 100))
        other = front + contrast * (1 - 2 * (next(draws) & 1))
        value = np.where(inside, np.where(light, front, other), behind + slope)
        value = np.where(band, next(draws), value)
        value += (noise[:, channel].astype(np.int32) - 128) * loudness >> 8
        images[:, channel] = value.clip(0, 255)
    return images


def _split(n: int, classes: int, seed: int, part: int) -> Arrays:
    keys = np.random.PCG64([seed, part]).random_raw(n)
    labels = (np.arange(n, dtype=np.int64) % classes)[np.argsort(keys, kind="stable")]
    chunks = [(labels[i : i + CHUNK], classes, [seed, part, i]) for i in range(0, n, CHUNK)]
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda chunk: _draw(*chunk), chunks))
    images = np.concatenate([np.empty((0, 3, 32, 32), np.uint8), *parts])
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
