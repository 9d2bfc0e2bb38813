"""Transfer: a network trained on one task put to work on another.

Pretrained classifiers of torchvision, a new head, freezing that can be proved, and rates that
differ from part to part. `cifar_utils.features` has what a frozen network makes of pictures.
"""

import difflib
import hashlib
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from cifar_utils.proofs import file_digest
from cifar_utils.weights import WeightsError

PATIENCE = 20.0  # seconds without a byte after which a download is given up


# --- Pretrained classifiers ---------------------------------------------------------------------


def imagenet(
    name: str, weights: str = "DEFAULT", folder: str | Path | None = None, fetch: bool = True
) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """A torchvision classifier with its ImageNet weights, and the preprocessing that they expect.

    name: as in `torchvision.models.list_models()`, "resnet34" for instance; weights: an entry of
    the model's weights, such as "IMAGENET1K_V1". The file is looked for in torch's cache (below
    `TORCH_HOME`), then in `folder`, then, if `fetch`, on the network. It must have the digest that
    is in its name.
    Raises ValueError for names torchvision does not have, WeightsError for weights not to be had.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.5)) or known[0]
        raise ValueError(f"torchvision has no classifier {name!r}. Near it: {near}")
    entries = torchvision.models.get_model_weights(name)
    if weights != "DEFAULT" and weights not in entries.__members__:
        raise ValueError(f"{name} has no weights {weights!r}, but {', '.join(entries.__members__)}")
    entry = entries[weights]
    _into_cache(entry, folder, fetch)
    return torchvision.models.get_model(name, weights=entry), entry.transforms()


def _into_cache(entry: WeightsEnum, folder: str | Path | None, fetch: bool) -> None:
    """See that the weights' file lies in torch's cache, whole. Raises WeightsError."""
    file = PurePosixPath(urlparse(entry.url).path).name
    begins = Path(file).stem.rpartition("-")[2]  # of the file's SHA-256
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for place in (cache, *([Path(folder)] if folder else [])):
        path = place / file
        if not path.is_file():
            continue
        if not file_digest(path, "sha256").startswith(begins):
            raise WeightsError(
                f"{file} is damaged: its SHA-256 does not begin with {begins}. Delete it."
            )
        if place != cache:
            cache.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part := cache / f".{file}.{os.getpid()}.part")
            os.replace(part, cache / file)
        return
    advice = "Put the file into a folder and name it, or set TORCH_HOME to a place that has it."
    if not fetch:
        raise WeightsError(f"{file} is not on this machine, and was not to be fetched. {advice}")
    print(f"Fetching {file}", flush=True)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(entry.url, cache / file, begins, progress=False)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"{file} is not in torch's cache and could not be fetched: {error}. {advice}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def replace_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Put a fresh last layer with `num_classes` outputs into `model`; return that layer.

    The head is the linear layer or convolution that was registered last (a convolution in
    SqueezeNet) and keeps its place, so the model's own `forward` still works. Raises ValueError if
    there is no such layer.
    """
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no linear layer and no convolution to replace"
        )
    name, old = layers[-1]
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
    else:
        new = nn.Conv2d(old.in_channels, num_classes, old.kernel_size, old.stride, old.padding)
    model.set_submodule(name, new.to(old.weight.device))
    return new


# --- Freezing -----------------------------------------------------------------------------------


class EvalBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm that stays in evaluation mode, whatever `train()` says: its averages rest."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


def freeze(module: nn.Module) -> None:
    """No parameter of `module` learns, and no running average of its `nn.BatchNorm2d` moves.

    Other kinds of BatchNorm are left alone. Both hold until `unfreeze`, in any training loop. The
    module is changed in place.
    """
    module.requires_grad_(False)
    freeze_averages(module)


def freeze_averages(module: nn.Module) -> None:
    """Keep every `nn.BatchNorm2d` in evaluation mode; their scales and shifts still learn."""
    for layer in module.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = EvalBatchNorm2d
            layer.eval()


def unfreeze(module: nn.Module) -> None:
    """The way back from `freeze`; the BatchNorms follow the next call of `train()`."""
    module.requires_grad_(True)
    for layer in module.modules():
        if type(layer) is EvalBatchNorm2d:
            layer.__class__ = nn.BatchNorm2d


def digests(model: nn.Module) -> dict[str, str]:
    """SHA-256 of each part's parameters and buffers: what is frozen keeps its digest.

    The parts are the model's children that hold any tensors, by name, in order; then, by their own
    names, tensors that belong to no child, such as the class token of a vision transformer.
    """
    parts: dict[str, Any] = {}
    for key, value in model.state_dict().items():
        total = parts.setdefault(key.partition(".")[0], hashlib.sha256())
        flat = value.detach().cpu().reshape(-1).view(torch.uint8)  # whatever its dtype
        total.update(key.encode() + flat.numpy().tobytes())
    return {name: total.hexdigest() for name, total in parts.items()}


def report(model: nn.Module) -> str:
    """A table, a line a part: parameters, how many of them learn, what its BatchNorms do."""
    lines = [f"{'part':12}{'parameters':>12}{'learn':>12}   averages"]
    for name, parameters in _parts(model).items():
        size = sum(p.numel() for p in parameters)
        learn = sum(p.numel() for p in parameters if p.requires_grad)
        part = model.get_submodule(name) if name in dict(model.named_children()) else nn.Identity()
        norms = [m for m in part.modules() if isinstance(m, nn.BatchNorm2d)]
        still = sum(isinstance(m, EvalBatchNorm2d) for m in norms)
        states = {0: "move", len(norms): "still" if norms else ""}
        state = states.get(still, f"{still} of {len(norms)} still")
        lines.append(f"{name:12}{size:12,}{learn:12,}   {state}".rstrip())
    return "\n".join(lines)


def _parts(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters by the first piece of their names: a child's, or their own."""
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        parts.setdefault(name.partition(".")[0], []).append(parameter)
    return parts


def parameter_groups(model: nn.Module, lr: float, factor: float = 1.0) -> list[dict]:
    """Groups for an optimizer: the last part learns at `lr`, each part before it `factor` slower.

    The parts are those of `report`; only what is not frozen is in a group. Discriminative
    rates: Howard and Ruder (2018), section 3.2. Raises ValueError if nothing is left to learn.
    """
    learning = [[p for p in part if p.requires_grad] for part in _parts(model).values()]
    learning = [parameters for parameters in learning if parameters][::-1]
    if not learning:
        raise ValueError("every parameter is frozen: unfreeze a part, the head at least")
    return [{"params": part, "lr": lr * factor**i} for i, part in enumerate(learning)]
