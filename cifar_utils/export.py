"""From a trained network to a file that other programs run: ONNX, the same in int8, a session.

A model to be served is `<name>.onnx` beside `<name>.json`. Its input "images" is `(N, 3, H, W)
float32`, normalized; its output "logits" is `(N, C) float32`; N may be any. The JSON is the
network's description, as in `weights/`, with the digest of the .onnx file, and is written last:
an interrupted export leaves a pair that `session` refuses, never one that lies.
"""

import copy
import hashlib
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from cifar_utils.weights import WeightsError

INPUT, OUTPUT = "images", "logits"
SERVED = "format sha256 classes mean std input_size".split()  # what a description must say
AGREE = 1e-4  # largest difference of a logit, relative where logits exceed 1
AGAIN = "Export the network anew (python -m apps.export)."


def to_onnx(model: nn.Module, about: dict[str, Any], path: str | Path) -> Path:
    """Write `model` as ONNX to `path` (`<name>.onnx`), and `<name>.json` beside it.

    model: takes `(N, 3, H, W)`, gives `(N, C)`; it is copied, put into eval mode, and left as it
    is. about: its description. Before the file is put in place onnxruntime has to agree with the
    model to 1e-4, at a batch size that it was not exported with. The exporter's notes, paths of
    this machine among them, are taken out. Returns the path. Raises WeightsError if the two do not
    agree, and for a description that is not whole.
    """
    _require(about, SERVED[2:], "about")
    network = copy.deepcopy(model).cpu().float().eval()
    size = about["input_size"]
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(5, 3, size, size, generator=generator)
    program = torch.onnx.export(
        network,
        (pictures[:2],),  # of an example batch of 1 the exporter concludes that it always is 1
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    for part in (program.model.graph, *program.model.graph):
        part.metadata_props.clear()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        program.save(part)
        with torch.no_grad():
            ours = network(pictures)
        theirs = answers(_open(part.read_bytes(), path.name), pictures)
        apart = ((theirs - ours).abs() / ours.abs().clamp(min=1)).max().item()
        if not apart <= AGREE:
            raise WeightsError(
                f"{path.name}: onnxruntime and the network differ by {apart:.2g} in a logit, more "
                f"than {AGREE}. Look for `if` and `float()` on data in the network's forward."
            )
        return _place(part, path, about | {"format": "onnx"})
    finally:
        part.unlink(missing_ok=True)


def quantize_static(
    source: str | Path,
    images: Tensor,
    path: str | Path,
    *,
    per_channel: bool = True,
    signed: bool = False,
    reduce_range: bool | None = None,
) -> Path:
    """Write the model at `source` once more, with weights and activations in 8 bits.

    images: `(N, 3, H, W) float32`, normalized; the range of each activation is what it spans on
    them, so they should be what the model will see, and none of the test set. per_channel: a scale
    for each output channel of a convolution, not one for all. signed: activations as int8 and not
    uint8; on x86 onnxruntime then leaves convolutions around a shortcut in floats. reduce_range:
    7 bits for weights where 8 could overflow; None asks `lacks_vnni`. BatchNorm is folded into the
    convolutions before. The format is QDQ: quantize and dequantize nodes around operators, which a
    session fuses. The description loses its accuracies, which are not this model's.
    Source: Jacob et al. (2018), arXiv:1712.05877.
    Returns the path. Raises WeightsError if `source` cannot be used, ValueError for images of
    another type or shape.
    """
    _, about = session(source)
    size = about["input_size"]
    if images.dtype != torch.float32 or images.shape[1:] != (3, size, size) or not len(images):
        raise ValueError(
            f"images are (N, 3, {size}, {size}) float32, normalized, N >= 1; "
            f"got {tuple(images.shape)} {images.dtype}"
        )
    reduce_range = lacks_vnni() if reduce_range is None else reduce_range
    kinds = quantization.QuantType
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with tempfile.TemporaryDirectory() as folder:
            folded = Path(folder) / "folded.onnx"
            quant_pre_process(str(source), str(folded))
            quantization.quantize_static(
                folded,
                part,
                _Pictures(images),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=per_channel,
                reduce_range=reduce_range,
                activation_type=kinds.QInt8 if signed else kinds.QUInt8,
                weight_type=kinds.QInt8,
            )
        made = {"pictures": len(images), "per_channel": per_channel, "signed": signed}
        made |= {"reduce_range": reduce_range, "made_from": about["sha256"]}
        kept = {key: value for key, value in about.items() if not key.endswith("accuracy")}
        return _place(part, path, kept | {"quantized": made})
    finally:
        part.unlink(missing_ok=True)


def session(
    path: str | Path, threads: int | None = None
) -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """The model at `path`, ready to run on the CPU, and its description.

    threads: of one `run`; None is one a core. What is verified is what is loaded: the file is read
    once. Raises WeightsError, naming the file, if it or its description is missing or is not what
    it should be: another digest, not ONNX, other inputs and outputs.
    """
    path, described = Path(path), Path(path).with_suffix(".json")
    try:
        content = path.read_bytes()
        about = json.loads(described.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise WeightsError(f"no {missing} in {path.parent.name or '.'}/. {AGAIN}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path.name}, {described.name}: cannot be read ({error})") from error
    _require(about, SERVED, described.name)
    if about["format"] != "onnx":
        raise WeightsError(f"{described.name} describes {about['format']!r}, not 'onnx'. {AGAIN}")
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise WeightsError(
            f"{path.name} is not the file that {described.name} describes: its SHA-256 differs. "
            f"{AGAIN}"
        )
    opened = _open(content, path.name, threads)
    try:
        size, classes, floats = about["input_size"], len(about["classes"]), "tensor(float)"
        put = [(i.name, i.type, *i.shape[1:]) for i in opened.get_inputs()]
        got = [(o.name, o.type, *o.shape[1:]) for o in opened.get_outputs()]
    except (TypeError, UnicodeDecodeError) as error:  # names in a model may be any bytes
        raise WeightsError(f"{path.name}, {described.name}: cannot be read ({error})") from error
    if put != [(INPUT, floats, 3, size, size)] or got != [(OUTPUT, floats, classes)]:
        raise WeightsError(
            f"{path.name} takes {put} and gives {got}; its description wants {INPUT!r} "
            f"(N, 3, {size}, {size}) and {OUTPUT!r} (N, {classes}), in floats. {AGAIN}"
        )
    return opened, about


def answers(opened: onnxruntime.InferenceSession, images: Tensor, size: int = 256) -> Tensor:
    """Logits of a session: `(N, 3, H, W) float32`, normalized → `(N, C) float32`, on the CPU."""
    parts = [opened.run([OUTPUT], {INPUT: part.numpy()})[0] for part in images.cpu().split(size)]
    return torch.cat([torch.from_numpy(part) for part in parts])


def convolutions(path: str | Path) -> tuple[int, int]:
    """How many convolutions compute in integers, and how many there are, as they will be run.

    Counted in the graph as onnxruntime's optimizer leaves it *on this machine*: only there is a
    convolution between quantize and dequantize nodes turned into one of integers, or not.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options = _options()
        options.optimized_model_filepath = str(optimized)
        _open(Path(path).read_bytes(), Path(path).name, options=options)
        kinds = [node.op_type for node in onnx.load(optimized).graph.node]
    found = [kind for kind in kinds if "Conv" in kind]
    return sum(kind in ("QLinearConv", "ConvInteger") for kind in found), len(found)


def lacks_vnni() -> bool:
    """Whether 8-bit products may overflow here: an x86 CPU without VNNI, or not known to have it.

    Such CPUs add pairs of products in 16 bits, which saturate; weights of 7 bits avoid it.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return not (known.get("avx512_vnni") or known.get("avx_vnni"))


class _Pictures(quantization.CalibrationDataReader):
    """Hands out calibration pictures, a batch at a time, as onnxruntime asks for them."""

    def __init__(self, images: Tensor) -> None:
        self.batches = iter(images.cpu().split(100))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch.numpy()}


def _options(threads: int | None = None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; a warning here is about files nobody keeps
    options.intra_op_num_threads = threads or 0
    add = options.add_session_config_entry
    # Between two runs idle threads would spin, and take the cores from whoever else computes.
    add("session.force_spinning_stop", "1")
    # A model is one file: others, which no digest vouches for, are looked for where none can be.
    add("session.model_external_initializers_file_folder_path", os.devnull)
    return options


def _open(content: bytes, name: str, threads: int | None = None, options: Any = None) -> Any:
    options = options or _options(threads)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds have no common parent
        raise WeightsError(f"{name} is not a model onnxruntime runs: {error}. {AGAIN}") from error


def _require(about: Any, fields: list[str], name: str) -> None:
    missing = [field for field in fields if not isinstance(about, dict) or field not in about]
    if missing:
        raise WeightsError(f"{name} does not say: {', '.join(missing)}")


def _place(part: Path, path: Path, about: dict[str, Any]) -> Path:
    """Put a finished file in its place, then its description with the digest."""
    about = about | {"sha256": hashlib.sha256(part.read_bytes()).hexdigest()}
    os.replace(part, path)
    part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path.with_suffix(".json"))
    return path
