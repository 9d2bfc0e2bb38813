"""What a frozen network makes of pictures, computed once, and a head trained on it in seconds."""

import hashlib
import json
import os
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cifar_utils.data import normalize
from cifar_utils.transfer import digests
from cifar_utils.weights import read


class FeatureCacheError(ValueError):
    """A file of features is not of this network and these pictures; says what differs."""


@torch.no_grad()
def extract(
    model: nn.Module,
    images: Tensor,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    size: int | None = None,
    batch_size: int = 500,
) -> Tensor:
    """What `model` makes of pictures, in evaluation mode: (N, 3, H, W) uint8 → (N, D) float32.

    The model's head should be `nn.Identity()`. mean, std: what it was trained with; size: pixels a
    side to which pictures are resized first, None for none. Raises ValueError for other pictures.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        found = f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}"
        gray = images.ndim == 4 and images.shape[1] == 1
        advice = ". Give gray pictures three equal channels: images.expand(-1, 3, -1, -1)"
        raise ValueError(
            f"pictures are (N, 3, H, W) uint8, these are {found}{advice if gray else ''}"
        )
    device = next(model.parameters()).device
    was_training, made = model.training, []
    model.eval()
    for batch in images.split(batch_size):
        batch = normalize(batch.to(device), mean, std)
        if size is not None:
            batch = nn.functional.interpolate(batch, size=size, mode="bilinear", antialias=True)
        made.append(model(batch.contiguous(memory_format=torch.channels_last)).float().cpu())
    model.train(was_training)
    return torch.cat(made)


def cached(file: str | Path, model: nn.Module, images: Tensor, **options: object) -> Tensor:
    """`extract(model, images, **options)`, computed once and kept in `file`.

    With the features the file keeps what they depend on: digests of the network and of the
    pictures, and the options. Raises FeatureCacheError if these are not today's.
    """
    file = Path(file)
    layers = str(model).replace("EvalBatchNorm2d", "BatchNorm2d")  # frozen or not, the same answer
    now = {
        "network": _digest(layers.encode(), json.dumps(digests(model)).encode()),
        "pictures": _digest(str(images.shape).encode(), images.contiguous().numpy().tobytes()),
        "options": json.dumps(options, sort_keys=True),
    }
    if file.exists():
        stored = read(file)
        with safetensors.safe_open(file, "pt") as opened:
            was = opened.metadata() or {}
        for key, value in now.items():
            if was.get(key) != value:
                raise FeatureCacheError(
                    f"{file.name} holds features made with other {key}: {was.get(key)}, now "
                    f"{value}. Delete the file, or name another one."
                )
        return stored["features"]
    made = extract(model, images, **options)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        save_file({"features": made}, part, metadata=now)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    return made


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"|".join(parts)).hexdigest()[:16]


def fit_head(
    features: Tensor, labels: Tensor, num_classes: int, decay: float = 1e-3, steps: int = 100
) -> nn.Linear:
    """A linear classifier on features: logistic regression, all pictures at once, by L-BFGS.

    features: (N, D) float; labels: (N,) int64; decay: weight of the squared weights in the loss.
    Nothing is drawn at random. Built in chapter 6
    """
    head = nn.Linear(features.shape[1], num_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(features), labels)
        loss = loss + decay * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return head.requires_grad_(False)
