"""Small trained networks that ship with the book, and weights put into a network with care.

A shipped network is `weights/<name>.safetensors`, which holds tensors and nothing that could run,
beside `weights/<name>.json`, which says what they are: architecture, classes, normalization, input
size, the digest of the tensors, and the recorded run that they come from.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cifar_utils import data, models
from cifar_utils.proofs import file_digest

SHIPPED = Path(__file__).resolve().parents[1] / "weights"
BLOCKS = {"BasicBlock": models.BasicBlock, "Bottleneck": models.Bottleneck}
FIELDS = "architecture classes mean std input_size sha256 results".split()


class WeightsError(ValueError):
    """Weights cannot be used; the message names them, what was found and what to do."""


def build(architecture: dict[str, Any]) -> models.ResNet:
    """The `ResNet` that a description asks for: `models.ResNet`'s arguments, the block by name.

    Raises WeightsError for a block or an argument that is not known, and for a network that no
    machine should be asked to build (over 8 stages, 1,000 blocks or 200 million parameters).
    """
    if not isinstance(architecture, dict):
        raise WeightsError(f"an architecture is a dict of arguments, not {architecture!r}")
    arguments = dict(architecture)
    block = arguments.pop("block", None)
    if not isinstance(block, str) or block not in BLOCKS:
        raise WeightsError(f"no block {block!r}: it is one of {', '.join(BLOCKS)}")
    layers = arguments.get("layers")
    counts = layers if isinstance(layers, list) and len(layers) <= 8 else [layers]
    width = arguments.get("width", 64)
    numbers = [*counts, width, arguments.get("num_classes", 10)]
    possible = all(type(number) is int and 0 < number <= 1000 for number in numbers)
    if possible:  # a block is about two kernels of 3×3
        parameters = sum(18 * blocks * (width * 2**i) ** 2 for i, blocks in enumerate(counts))
        possible = sum(counts) <= 1000 and parameters <= 200e6
    if not possible:
        raise WeightsError(
            f"no ResNet can be built from {architecture}: layers is a list of at most 8 numbers of "
            "blocks, 1,000 in all; width and num_classes are whole numbers from 1 to 1,000; the "
            "parameters must stay below 200 million"
        )
    try:
        return models.ResNet(BLOCKS[block], **arguments)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"no ResNet can be built from {architecture}: {error}") from error


def save(name: str, model: nn.Module, about: dict[str, Any], folder: str | Path = SHIPPED) -> Path:
    """Write `<name>.safetensors` and `<name>.json`; `about` has the FIELDS but for the digest.

    The tensors come first and the description, which holds their digest, last: an interrupted
    save leaves a pair that `load` refuses, never one that lies. Returns the tensors' path.
    """
    path = Path(folder) / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, part)
        part.chmod(0o644)  # safetensors makes files that only their owner may read
        about = about | {"sha256": file_digest(part, "sha256")}
        os.replace(part, path)
        part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path.with_suffix(".json"))
    finally:
        part.unlink(missing_ok=True)
    return path


def load(name: str, folder: str | Path = SHIPPED) -> tuple[models.ResNet, dict[str, Any]]:
    """A shipped network in eval mode, and what its JSON says about it.

    Raises WeightsError for a name that is not there, a description that is not whole or contradicts
    itself, and tensors whose digest, names or shapes are not the ones described.
    """
    path = Path(folder) / f"{name}.safetensors"
    there = sorted(p.stem for p in Path(folder).glob("*.safetensors"))
    if name not in there:  # nor is a path to elsewhere
        named = ", ".join(there) or "none"
        raise WeightsError(f"no weights {name!r} in {Path(folder).name}/; there: {named}")
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{name}.json cannot be read: {error}") from error
    missing = [field for field in FIELDS if not isinstance(about, dict) or field not in about]
    if missing:
        raise WeightsError(f"{name}.json does not say: {', '.join(missing)}")
    model = build(about["architecture"])
    if not isinstance(about["classes"], list) or len(about["classes"]) != model.fc.out_features:
        raise WeightsError(
            f"{name}.json names the classes {about['classes']!r}, its network has "
            f"{model.fc.out_features}. Restore it from the repository."
        )
    if file_digest(path, "sha256") != about["sha256"]:
        raise WeightsError(
            f"{path.name} is not the file that {name}.json describes: its SHA-256 differs. "
            "Restore both from the repository."
        )
    fill(model, read(path), path.name)
    return model.eval(), about


def held_out(train: data.Split, n: int = 5000) -> tuple[data.Split, data.Split]:
    """Set aside about `n` training pictures by what is in them: the same ones whatever their order.

    A network that ships was trained on one copy of the data and is judged on the reader's, whose
    files may come in another order; `data.hold_out`, which goes by place, would then mix the two.
    Each class gives the same share, rounded up: its pictures with the smallest SHA-256 of their
    pixels.
    Returns (train, val). Raises ValueError unless 0 < n < len(train).
    """
    if not 0 < n < len(train):
        raise ValueError(f"n must be between 1 and {len(train) - 1}, got {n}")
    keys = [hashlib.sha256(image.tobytes()).digest()[:8] for image in train.images.numpy()]
    keys, labels = np.frombuffer(b"".join(keys), dtype=">u8"), train.labels.numpy()
    counts = np.bincount(labels)
    order = np.lexsort((keys, labels))
    rank = np.empty(len(labels), dtype=np.int64)  # of each picture within its class
    rank[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    held = rank * len(labels) < n * counts[labels]
    return train.subset(np.flatnonzero(~held)), train.subset(np.flatnonzero(held))


def read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises WeightsError if it is not one."""
    try:
        return load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(
            f"{Path(path).name} is not a safetensors file: {error}. A pickle, as torch.save writes "
            "it, can hold code and is not opened here: load it where you trust it with "
            "torch.load(weights_only=True), and store it with safetensors."
        ) from error


def fill(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Put `state` into `model`, all of it or nothing of it.

    Raises WeightsError if `state` belongs to another network; it says which tensors are missing,
    left over or of another shape, and whether only the head, the last layer, has other classes.
    """
    own = model.state_dict()
    missing, left = [k for k in own if k not in state], [k for k in state if k not in own]
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    if not (missing or left or shapes):
        model.load_state_dict(state)
        return
    heads = {name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    if shapes and not missing and not left and {k.rpartition(".")[0] for k in shapes} <= heads:
        classes = len(state[shapes[-1]]), len(own[shapes[-1]])
        raise WeightsError(
            f"{source} has {classes[0]} classes, this network {classes[1]}. Build the network "
            f"with {classes[0]}, load, then give it a new head (transfer.replace_head)."
        )
    found = [f"missing: {_some(missing)}"] if missing else []
    found += [f"left over: {_some(left)}"] if left else []
    found += [
        f"{k} has shape {tuple(state[k].shape)}, here {tuple(own[k].shape)}" for k in shapes[:3]
    ]
    prefixed = left and all(key.startswith("module.") for key in left)
    advice = (
        "Strip the prefix 'module.' first." if prefixed else "Build the network it was saved from."
    )
    raise WeightsError(f"{source} holds another network. {'; '.join(found)}. {advice}")


def _some(keys: list[str]) -> str:
    """The first keys, and how many more."""
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
