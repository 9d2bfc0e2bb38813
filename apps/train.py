"""Train a residual network on CIFAR or on your own ImageFolder, in one process or in many.

  python -m apps.train                                  this machine, CIFAR-10, a laptop's settings
  torchrun --nproc-per-node=2 -m apps.train             the same training, by two processes
  torchrun --nproc-per-node=gpu --max-restarts=3 -m apps.train --budget gpu
                                                        one process a GPU; a crash costs an epoch
  torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 \\
      -m apps.train --dataset imagefolder --data /shared/imagenet --budget gpu
                                                        the same line on both of two machines
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from apps.pictures import (
    Pictures,
    TrainError,
    collate,
    load_pictures,
    on_device,
    require_numbers,
)
from cifar_utils import checkpoints, data, distributed, models
from cifar_utils.distributed import DistributedError, World
from cifar_utils.precision import autocast, choose_precision

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = {
    "resnet10": (models.BasicBlock, [1, 1, 1, 1]),
    "resnet18": (models.BasicBlock, [2, 2, 2, 2]),
    "resnet34": (models.BasicBlock, [3, 4, 6, 3]),
    "resnet50": (models.Bottleneck, [3, 4, 6, 3]),
    "resnet101": (models.Bottleneck, [3, 4, 23, 3]),
    "resnet152": (models.Bottleneck, [3, 8, 36, 3]),
}
# What --budget stands for, by kind of data. The rate is for 256 pictures a step, and grows with the
# batch: CIFAR's is chapter 4's, ImageNet's is Goyal et al.'s (2017), as are the 90 epochs, the 5 of
# warm-up and the weight decay. (Goyal et al. smooth no labels; most later recipes do.)
COLUMNS = ("model", "width", "epochs", "batch", "rate", "warmup", "decay", "size", "workers")
BUDGETS = {
    ("cifar", "smoke"): ("resnet10", 4, 3, 100, 0.4, 1.0, 5e-4, 32, 0),
    ("cifar", "laptop"): ("resnet10", 32, 13, 128, 0.4, 3.0, 5e-4, 32, 0),
    ("cifar", "gpu"): ("resnet18", 64, 26, 512, 0.4, 5.0, 5e-4, 32, 0),
    ("imagefolder", "smoke"): ("resnet10", 4, 2, 8, 0.1, 1.0, 1e-4, 32, 0),
    ("imagefolder", "laptop"): ("resnet10", 16, 20, 64, 0.1, 2.0, 1e-4, 64, 0),
    ("imagefolder", "gpu"): ("resnet50", 64, 90, 256, 0.1, 5.0, 1e-4, 224, 8),
}

EPILOG = """
Every process must find --data and --out at the same place; between machines, on a shared disk.
Only rank 0 writes. What is learned does not depend on the number of processes but for rounding,
and for BatchNorm, which sees the pictures of its own process: --batch is what one step sees in
all, and what happens to a picture depends on seed, epoch and picture alone.

After each epoch the checkpoint is replaced in one move. If that fails, for a full disk say, the
one before stays whole, training goes on and says so, and the program ends with status 1.
"""
# Name, kind, help; a kind is a type, or the choices. What has no default takes the budget's.
WHAT = (
    ("dataset", ("cifar10", "cifar100", "imagefolder"), "default: cifar10"),
    ("data", str, "the folder of the pictures; an imagefolder's has train/CLASS/*.jpg and "
     "val/CLASS/*.jpg. CIFAR is found or fetched without"),
    ("model", tuple(NETWORKS), "the network"),
    ("width", int, "channels of its first stage; 64 is the paper's"),
    ("norm", ("batch", "sync", "group"), "BatchNorm over a process's own pictures (default); over "
     "those of all processes, on GPUs only; GroupNorm, which looks at one picture at a time"),
    ("size", int, "imagefolder: pixels a side that the network sees"),
)  # fmt: skip
HOW = (
    ("budget", ("smoke", "laptop", "gpu"), "defaults for what follows (default: the environment's "
     "CIFAR_BUDGET, else laptop); smoke takes drawn pictures"),
    ("epochs", int, "passes over the training pictures"),
    ("batch", int, "pictures a step, over all processes together"),
    ("accumulate", int, "smaller passes that make up a step, to save memory (default: 1)"),
    ("rate", float, "highest learning rate (default: in proportion to --batch)"),
    ("warmup", float, "epochs in which it is reached in a line; then half a cosine, down to zero"),
    ("decay", float, "weight decay, on kernels and matrices only"),
    ("smoothing", float, "label smoothing (default: 0.1)"),
    ("precision", ("auto", "fp32", "bf16", "fp16", "fp64"), "auto (default): bf16 or fp16 where "
     "that is fast and right. fp16 scales its loss; fp64 is for comparing runs"),
    ("hold-out", int, "CIFAR: training pictures kept as validation, judged after each epoch "
     "(default: 0)"),
    ("train-pictures", int, "only so many, for a trial"),
    ("test-pictures", int, "only so many"),
    ("seed", int, "default: 0"),
)  # fmt: skip
WHERE = (
    ("device", ("auto", "cpu", "cuda", "mps"), "default: auto, the best there is"),
    ("workers", int, "processes that prepare pictures, for each one that trains"),
    ("out", str, "folder for checkpoint.pt and result.json; training goes on from a checkpoint "
     "that is there (default: below runs/train/)"),
)  # fmt: skip
FIXED = {
    **{"dataset": "cifar10", "norm": "batch", "accumulate": 1, "smoothing": 0.1, "seed": 0},
    **{"precision": "auto", "hold_out": 0, "device": "auto"},
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    first, _, examples = __doc__.partition("\n\n")
    made = argparse.ArgumentParser(
        prog="python -m apps.train",
        usage="python -m apps.train [options]",
        description=first,
        epilog="examples:\n" + examples + EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for title, options in (("what", WHAT), ("how", HOW), ("where", WHERE)):
        group = made.add_argument_group(title)
        for name, kind, text in options:
            if isinstance(kind, tuple):
                group.add_argument(f"--{name}", choices=kind, help=text)
            else:
                what = {int: "N", float: "X", str: "FOLDER"}[kind]
                group.add_argument(f"--{name}", type=kind, metavar=what, help=text)
    made.set_defaults(**FIXED)
    return made


def settings(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with the budget's values where it says nothing.

    Raises TrainError for what cannot be.
    """
    given = parser().parse_args(arguments)
    given.budget = given.budget or os.environ.get("CIFAR_BUDGET", "laptop")
    kind = "imagefolder" if given.dataset == "imagefolder" else "cifar"
    if (kind, given.budget) not in BUDGETS:
        raise TrainError(f"no budget {given.budget!r}: it is smoke, laptop or gpu")
    if kind == "imagefolder" and not given.data:
        raise TrainError("--dataset imagefolder needs --data FOLDER, with train/ and val/ in it")
    for name, value in zip(COLUMNS, BUDGETS[kind, given.budget], strict=True):
        if getattr(given, name) is None:
            value = value * given.batch / 256 if name == "rate" else value  # batch stands before
            setattr(given, name, value)
    numbers = dict.fromkeys(("epochs", "batch", "accumulate", "width", "size"), 1)
    numbers |= dict.fromkeys(("rate", "warmup", "decay", "smoothing", "hold_out", "seed"), 0)
    require_numbers(given, numbers | {"workers": 0, "train_pictures": 1, "test_pictures": 1})
    name = f"{given.dataset}-{given.model}-{given.budget}"
    given.out = Path(given.out) if given.out else ROOT / "runs" / "train" / name
    return given


def build(given: argparse.Namespace, classes: int, here: World) -> nn.Module:
    """The network, its initial weights drawn from the seed.

    Raises TrainError for SyncBatchNorm off a GPU, where torch has none.
    """
    if given.norm == "sync" and here.device.type != "cuda":
        raise TrainError("--norm sync works on GPUs only. On a CPU take --norm batch or group.")
    torch.manual_seed(given.seed)
    block, layers = NETWORKS[given.model]
    stem = "imagenet" if given.dataset == "imagefolder" else "cifar"
    model = models.ResNet(block, layers, classes, given.width, stem)
    if given.norm == "group":
        model = group_norms(model)
    if given.norm == "sync":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    kind = torch.float64 if given.precision == "fp64" else torch.float32
    return model.to(here.device, kind, memory_format=torch.channels_last)


def group_norms(model: nn.Module) -> nn.Module:
    """`model` with a GroupNorm of at most 8 groups in place of each BatchNorm."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            channels = layer.num_features
            model.set_submodule(name, nn.GroupNorm(math.gcd(8, channels), channels))
    return model


def make_optimizer(model: nn.Module, given: argparse.Namespace) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; no decay on biases and on the scales of normalization."""
    heavy = [p for p in model.parameters() if p.ndim > 1]
    light = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": heavy, "weight_decay": given.decay},
        {"params": light, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=given.rate, momentum=0.9, nesterov=True)


@dataclass
class Job:
    """One training and all that changes while it goes on."""

    given: argparse.Namespace
    here: World
    pictures: Pictures
    share: int  # pictures in one pass of one process
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    history: dict[str, list[float]]

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """A forward pass in the training's number format."""
        name = self.given.precision
        with autocast(self.here.device, "fp32" if name == "fp64" else name):
            return network(images)

    def train_epoch(self, wrapped: nn.Module, loader: DataLoader) -> None:
        """One epoch; its loss, accuracy and rate go into the history. Raises TrainError at NaN."""
        given, here, epoch = self.given, self.here, len(self.history["lr"])
        loader.sampler.set_epoch(epoch)  # another order
        loader.dataset.epoch = epoch  # and other draws for each picture
        torch.manual_seed(given.seed + 1000 * epoch + here.rank)  # for what a layer may draw
        steps = len(loader) // given.accumulate
        warmup = min(round(given.warmup * steps), given.epochs * steps - 1)
        batches = on_device(loader, here, self.pictures, given.precision)
        wrapped.train()
        losses, right = [], torch.zeros((), dtype=torch.int64, device=here.device)
        for step in range(epoch * steps, (epoch + 1) * steps):
            rate = distributed.warmup_cosine(step, given.epochs * steps, warmup, given.rate)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad()
            for part in range(given.accumulate):
                images, labels = next(batches)
                wait = here.size > 1 and part < given.accumulate - 1
                with wrapped.no_sync() if wait else contextlib.nullcontext():
                    logits = self.logits(wrapped, images)
                    loss = nn.functional.cross_entropy(
                        logits.to(images.dtype), labels, label_smoothing=given.smoothing
                    )
                    self.scaler.scale(loss / given.accumulate).backward()
                losses.append(loss.detach())
                right += (logits.detach().argmax(1) == labels).sum()
            # fp16's scaler leaves a step out in all processes or in none: a gradient that is
            # infinite in one of them is infinite in the mean, which is what all of them have.
            self.scaler.step(self.optimizer)
            self.scaler.update()
        mean = torch.stack(losses).mean().item()
        sums = torch.tensor([mean, right.item()], dtype=torch.float64)
        total, right = distributed.sum_over_ranks(sums, here).tolist()
        if not math.isfinite(total):
            raise TrainError(
                f"the loss became {total} in epoch {epoch + 1}, at a rate of up to {given.rate:.3g}"
                ". Try a lower --rate, a longer --warmup, --precision fp32."
            )
        self.history["train_loss"].append(total / here.size)
        self.history["train_accuracy"].append(right / (steps * given.batch))
        self.history["lr"].append(rate)

    def judge(self, dataset: Dataset) -> dict[str, float]:
        """Loss, top-1 and top-5 on a data set, each picture counted once."""
        distributed.share_buffers(self.model, self.here)
        self.model.eval()
        options = {"num_workers": self.given.workers, "collate_fn": collate(dataset)}
        loader = distributed.judging_loader(dataset, self.share, self.here, **options)
        batches = on_device(loader, self.here, self.pictures, self.given.precision)
        return distributed.count_right(
            lambda images: self.logits(self.model, images), batches, self.here
        )

    def state(self) -> dict[str, Any]:
        """All that a restart needs. No generator's state: every draw is keyed by its epoch."""
        parts = ("model", "optimizer", "scaler")
        return {name: getattr(self, name).state_dict() for name in parts} | {
            "recipe": recipe_of(self.given),
            "generators": {},
            "history": self.history,
            "best": None,
            "precision": self.given.precision,
            "threads": torch.get_num_threads(),
            "processes": self.here.size,
        }

    def line(self, seconds: float) -> str:
        """What the last epoch left, in words."""
        last = {name: values[-1] for name, values in self.history.items() if values}
        text = f"epoch {len(self.history['lr']):>3}/{self.given.epochs}"
        text += f"   loss {last['train_loss']:.3f}   accuracy {last['train_accuracy']:6.1%}"
        if "val_top1" in last:
            text += f"   val {last['val_top1']:6.1%}, top-5 {last['val_top5']:6.1%}"
        speed = len(self.pictures.train) / seconds
        return f"{text}   lr {last['lr']:.4f}   {speed:,.0f} pictures/s"


def recipe_of(given: argparse.Namespace) -> dict[str, Any]:
    """The settings that a training cannot change on its way."""
    free = ("out", "data", "device", "workers", "accumulate", "budget", "test_pictures")
    return {name: value for name, value in vars(given).items() if name not in free}


def resume(path: Path, given: argparse.Namespace, here: World) -> dict[str, Any] | None:
    """What an earlier start left at `path`, if there is something; it decides the precision.

    Raises CheckpointError for a file that is damaged or from another training, DistributedError
    if not all processes find the same.
    """
    saved, epochs = checkpoints.load(path) if path.exists() else None, 0
    if saved:
        with checkpoints.restoring(path):
            epochs = len(saved["history"]["lr"])
    distributed.require_agreement(here, **{"epochs in the checkpoint": epochs})
    if given.precision == "auto" and saved:
        given.precision = saved["precision"]
    elif given.precision == "auto":  # a probe that goes by time may answer otherwise in another
        probed = choose_precision(here.device) if here.rank == 0 else None
        given.precision = distributed.from_rank_zero(probed, here)
    if saved:
        with checkpoints.restoring(path):
            checkpoints.require_same(saved["recipe"], recipe_of(given), path)
        here.say(f"{path.name}: {epochs} of {given.epochs} epochs are done")
        if saved.get("processes") != here.size:
            here.say(
                f"{saved.get('processes')} processes began it, now there are {here.size}: a step "
                "sees as many pictures, but sums round differently, and BatchNorm sees other parts"
            )
        if here.rank == 0:
            checkpoints.warn_if_not_exact(saved["threads"])
    return saved


def keep(path: Path, state: dict[str, Any], here: World) -> bool:
    """Write the checkpoint (rank 0 does); where that fails say so, and leave the one before."""
    if here.rank:
        return True
    try:
        checkpoints.save(path, state)
        return True
    except RuntimeError as error:  # a CheckpointError, whose cause is the system's own error
        number = getattr(error.__cause__, "errno", None)
        why = os.strerror(number) if number else str(error).partition("\n")[0]
        before = "the one before is whole" if path.exists() else "there is none yet"
        here.say(f"{path.name} NOT written ({why}): {before}; training goes on")
        return False


def report(path: Path, result: dict[str, Any], here: World) -> bool:
    """Write result.json (rank 0 does), whole or not at all; False and a word where that fails."""
    if here.rank:
        return True
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)
        return True
    except OSError as error:
        here.say(f"{path.name} NOT written ({error.strerror})")
        with contextlib.suppress(OSError):
            part.unlink()
        return False


@contextlib.contextmanager
def first_on_this_machine(here: World) -> Iterator[None]:
    """Let local rank 0 do it first (a download, say), then the others, who find it done."""
    if here.size > 1 and here.local_rank:
        dist.barrier()
    yield
    if here.size > 1 and not here.local_rank:
        dist.barrier()


def run(given: argparse.Namespace, here: World) -> int:
    """Train, and judge at the end; 0, or 1 if what was learned could not be written."""
    begun = time.perf_counter()
    share = distributed.batch_share(given.batch, here, given.accumulate)
    quiet = contextlib.redirect_stdout(io.StringIO()) if here.rank else contextlib.nullcontext()
    with first_on_this_machine(here), quiet:
        pictures = load_pictures(given)
    if len(pictures.train) < given.batch:
        raise TrainError(f"{len(pictures.train)} pictures make no batch of {given.batch}: lower it")
    distributed.require_agreement(here, pictures=pictures.identity, settings=recipe_of(given))
    path = given.out / "checkpoint.pt"
    saved = resume(path, given, here)
    if here.rank == 0:
        for part in path.parent.glob(f"{path.name}.*.part"):  # of a process killed while writing
            with contextlib.suppress(OSError):
                part.unlink()

    model = build(given, pictures.classes, here)
    scaler = torch.amp.GradScaler(here.device.type, enabled=given.precision == "fp16")
    names = ("train_loss", "train_accuracy", "val_loss", "val_top1", "val_top5", "lr", "seconds")
    history = saved["history"] if saved else {name: [] for name in names}
    job = Job(given, here, pictures, share, model, make_optimizer(model, given), scaler, history)
    with checkpoints.restoring(path):
        for name in ("model", "optimizer", "scaler") if saved else ():
            getattr(job, name).load_state_dict(saved[name])
    wrapped = distributed.wrap(model, here)
    # A 1×1 kernel has the same numbers in the same places in either layout, and DDP warns of it.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    options = {"num_workers": given.workers, "collate_fn": collate(pictures.train)}
    loader = distributed.training_loader(pictures.train, share, here, given.seed, **options)
    size = sum(p.numel() for p in model.parameters())
    here.say(
        f"{given.model}, {size:,} parameters; {len(pictures.train):,} pictures of "
        f"{pictures.classes} classes ({pictures.identity})\n"
        f"{here.size} × {here.device.type}, {given.precision}; {given.batch} pictures a step: "
        f"{here.size} × {given.accumulate} × {share}; rate up to {given.rate:.3g}"
    )
    written = True
    for _ in range(len(history["lr"]), given.epochs):
        start = time.perf_counter()
        job.train_epoch(wrapped, loader)
        seconds = time.perf_counter() - start
        if pictures.val is not None:
            found = job.judge(pictures.val)
            for name in ("loss", "top1", "top5"):
                history[f"val_{name}"].append(found[name])
        history["seconds"].append(time.perf_counter() - start)
        here.say(job.line(seconds))
        written = keep(path, job.state(), here)
    result = {"processes": here.size, "device": here.device.type, "pictures": pictures.identity}
    result |= {"settings": recipe_of(given), "history": history}
    if pictures.test is not None:
        result["test"] = found = job.judge(pictures.test)
        scores = f"top-1 {found['top1']:.2%}, top-5 {found['top5']:.2%}"
        here.say(f"test: {scores} of {found['pictures']:,}")
    result["seconds"] = time.perf_counter() - begun
    return 0 if report(given.out / "result.json", result, here) and written else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; its exit status."""
    try:
        given = settings(arguments)
        with distributed.world(given.device) as here:
            return run(given, here)
    except (TrainError, DistributedError, checkpoints.CheckpointError, data.DataError) as error:
        who = f"rank {os.environ['RANK']}: " if "RANK" in os.environ else ""
        print(f"apps.train: {who}{error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
