"""Write a shipped network as ONNX, and on request in int8 too, for `python -m apps.serve`."""

import argparse
import os
import sys
from pathlib import Path

from cifar_utils import data, export, training, weights

HELP = """\
Writes FOLDER/NAME.onnx and FOLDER/NAME.json, its description: classes, normalization, and the
digest by which a server knows that both belong together. onnxruntime has to agree with PyTorch to
1e-4 before the file is put in place.

  python -m apps.export resnet10_wide_cifar10 --out runs/served
  python -m apps.export resnet10_wide_cifar10 --out runs/served --int8
  python -m apps.serve runs/served/resnet10_wide_cifar10_int8.onnx

--int8 writes NAME_int8.onnx and NAME_int8.json as well. The ranges of its activations come from
validation pictures that the network was not trained on; others of them then judge it. For this the
network's data set is needed, from CIFAR_DATA or the network (the book's page "How to use" says
more). Exit codes: 0 written, 2 not written (the reason is one line on stderr)."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser("python -m apps.export", description=HELP)
    p.formatter_class = argparse.RawDescriptionHelpFormatter
    there = ", ".join(sorted(path.stem for path in weights.SHIPPED.glob("*.safetensors")))
    p.add_argument("name", metavar="NAME", help=f"a shipped network: {there}")
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="made if not there")
    p.add_argument("--int8", action="store_true", help="8-bit weights and activations as well")
    p.add_argument("--pictures", type=int, default=500, metavar="N", help="to calibrate (500)")
    return p


def int8(args: argparse.Namespace, model, about: dict, path: Path) -> None:
    """Quantize what lies at `path`, and say how it compares. Raises ValueError, DataError."""
    smoke = os.environ.get("CIFAR_BUDGET") == "smoke"
    dataset = data.load(about["dataset"]["name"], stand_in=(500, 200) if smoke else None)
    if dataset.stand_in and not smoke:
        raise ValueError("calibration needs real pictures; name a folder of them in CIFAR_DATA")
    held = min(about.get("held_out", 5000), len(dataset.train) // 5)
    val = weights.held_out(dataset.train, held)[1]
    if not 0 < args.pictures < len(val):
        raise ValueError(f"--pictures is between 1 and {len(val) - 1}, not {args.pictures}")
    judge, calibrate = data.hold_out(val, args.pictures)
    scale = {"mean": about["mean"], "std": about["std"]}
    small = path.with_name(f"{path.stem}_int8.onnx")
    export.quantize_static(path, data.normalize(calibrate.images, **scale), small)
    done, convolutions = export.convolutions(small)
    print(f"{small.name}: {small.stat().st_size:,} bytes, {done} of {convolutions} convolutions")
    images = data.normalize(judge.images, **scale)
    before = training.evaluate(model.cpu(), data.BatchLoader(judge, 256, **scale), precision="fp32")
    after = export.answers(export.session(small)[0], images).argmax(1)
    right = (after == judge.labels).float().mean().item()
    print(f"right of {len(judge):,} other validation pictures: {before.accuracy:.2%} → {right:.2%}")


def main(arguments: list[str] | None = None) -> int:
    """Parse, export, report; the exit code."""
    args = parser().parse_args(arguments)
    try:
        model, about = weights.load(args.name)
        path = export.to_onnx(model, about, args.out / f"{args.name}.onnx")
        print(f"{path.name}: {path.stat().st_size:,} bytes")
        if args.int8:
            int8(args, model, about, path)
    except OSError as error:
        why = f"{error.strerror or error}. Make room there, or name another folder"
        print(f"export: nothing more could be put into {args.out}: {why}", file=sys.stderr)
        return 2
    except (ValueError, data.DataError) as error:
        print(f"export: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
