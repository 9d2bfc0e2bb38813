"""What a network says about pictures of one's own, prepared as its evaluation prepares them."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cifar_utils import data, pictures
from cifar_utils.pictures import PictureError as PictureError
from cifar_utils.pictures import open_picture as open_picture
from cifar_utils.weights import WeightsError

WHOLE = (
    "It needs classes (names), mean and std (3 numbers each, std above 0) and input_size (pixels, "
    "1 to 1024), as weights.load gives them."
)
Source = str | os.PathLike | bytes | Image.Image


@dataclass(frozen=True)
class Prediction:
    """What a network says about one picture.

    source: the file's name, the address or "picture 3"; classes, probabilities: the likeliest
    first; logits: `(C,) float32` on the CPU, in the order of the network's classes.
    """

    source: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    logits: Tensor = field(repr=False, compare=False)


def prepare(picture: Image.Image, size: int = 32) -> Tensor:
    """The middle square of an RGB picture as `(3, size, size) uint8`, what a network takes.

    The shorter side becomes `size`, the rest is cut off. Pillow's bicubic filter grows with the
    factor, so that every pixel counts and nothing aliases (Parmar et al., 2022, arXiv:2104.11222);
    it is sharper than the bilinear one. A picture of size × size is not touched at all.
    Raises PictureError if it is not RGB.
    """
    if picture.mode != "RGB":
        raise PictureError(
            f"prepare takes RGB, and this picture is {picture.mode}. Use open_picture on it first."
        )
    side = min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    box = (left, top, left + side, top + side)  # cut before scaling: no long strip in between
    square = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def predict(
    model: nn.Module,
    about: dict[str, Any],
    sources: Source | Iterable[Source],
    *,
    top_k: int = 5,
    temperature: float = 1.0,
) -> list[Prediction]:
    """What `model` says about one source, anything `open_picture` takes, or about several.

    about: the network's description, of which classes, mean, std and input_size are used; top_k:
    how many classes to name, all if there are fewer; temperature: what logits are divided by
    (Guo et al., 2017, arXiv:1706.04599) before they become probabilities. Prediction.logits are
    as they came. The network computes on its device and in eval mode; its mode is put back.
    Raises PictureError for the first picture that cannot be used, WeightsError for a description
    that is not whole or not of this network, ValueError unless top_k >= 1 and temperature > 0.
    """
    if top_k < 1 or not 0 < temperature < math.inf:
        raise ValueError(
            f"top_k must be at least 1 and temperature above 0, got {top_k} and {temperature}"
        )
    classes, size = _described(about)
    one = not isinstance(sources, Iterable) or isinstance(
        sources, str | bytes | bytearray | np.ndarray | Tensor
    )
    sources = [sources] if one else list(sources)
    names = [pictures.name_of(source, f"picture {i}") for i, source in enumerate(sources, 1)]
    opened = [open_picture(source, name=name) for source, name in zip(sources, names, strict=True)]
    if not opened:
        return []
    images = torch.stack([prepare(picture, size) for picture in opened])
    logits = _answers(model, about, images)
    if logits.shape != (len(images), len(classes)):
        raise WeightsError(
            f"the description has {len(classes)} classes, the network's answers have the shape "
            f"{tuple(logits.shape[1:])}. Load both together (weights.load), or correct the classes."
        )
    if not logits.isfinite().all():
        raise WeightsError("the network answers NaN or infinity. Load its weights again.")
    ranked, order = logits.double().sort(dim=1, descending=True, stable=True)
    shares = ((ranked - ranked[:, :1]) / temperature).softmax(1)  # no overflow, however cold
    rows = zip(names, order[:, :top_k].tolist(), shares[:, :top_k].tolist(), logits, strict=True)
    return [
        Prediction(name, tuple(classes[i] for i in best), tuple(share), row)
        for name, best, share, row in rows
    ]


def _described(about: dict[str, Any]) -> tuple[list[str], int]:
    """Classes and input size of a description that has all that `predict` needs.

    Raises WeightsError if it has not.
    """
    try:
        classes, size = list(about["classes"]), about["input_size"]
        mean, std = ([float(x) for x in about[name]] for name in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"the description is not whole: {error!r}. {WHOLE}") from error
    if not classes or isinstance(about["classes"], str) or not all(type(c) is str for c in classes):
        raise WeightsError(f"the description's classes are {about['classes']!r}. {WHOLE}")
    scale = [*mean, *std]
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, scale)) or min(std) <= 0:
        raise WeightsError(f"the description's mean is {mean}, its std {std}. {WHOLE}")
    if type(size) is not int or not 1 <= size <= 1024:
        raise WeightsError(f"the description's input_size is {size!r}. {WHOLE}")
    return classes, size


def _answers(model: nn.Module, about: dict[str, Any], images: Tensor) -> Tensor:
    """Logits of `(N, 3, H, W) uint8`, in eval mode; every module gets its own mode back."""
    like = next(model.parameters(), torch.zeros(0))
    modes = [(module, module.training) for module in model.modules()]
    logits = []
    try:
        model.eval()
        with torch.no_grad():
            for part in images.split(256):
                batch = data.normalize(part.to(like.device), about["mean"], about["std"])
                logits.append(model(batch.to(like.dtype)).float().cpu())
    except RuntimeError as error:
        shape = "×".join(map(str, images.shape[1:]))
        raise WeightsError(
            f"the network cannot take pictures of {shape}, as its description says: {error}"
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    return torch.cat(logits)
