"""Several processes that train one network: who each is, what it reads, and how they count.

Under `torchrun` a process finds its place in the environment; started without, it is alone, and all
of this works for a world of one. Gradients are exchanged by torch's DistributedDataParallel.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # what torchrun tells each process of itself
MEETING = ("MASTER_ADDR", "MASTER_PORT")  # and where the processes find each other


class DistributedError(RuntimeError):
    """Processes cannot work together; the message says what was found and what to do."""


@dataclass(frozen=True)
class World:
    """A process's place: `rank` of `size`, and `local_rank` among those on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def say(self, text: str) -> None:
        """Print, once for all processes: only rank 0 does."""
        if self.rank == 0:
            print(text, flush=True)


def find_world(device: str = "auto") -> World:
    """This process's place, from the environment; a world of one where it holds none.

    device: "cpu", "cuda", "mps", or "auto" for the best. Raises DistributedError for an incomplete
    environment, for a GPU that is not there, and for SLURM tasks that know nothing of each other.
    """
    if not any(name in os.environ for name in PLACE):
        tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
        if tasks > 1:
            raise DistributedError(
                f"srun started {tasks} tasks, but none has a RANK: each would train alone. Let "
                "srun start one torchrun on each node (apps/slurm/train.sbatch)."
            )
        return World(device=_device(device, 0))
    missing = [name for name in PLACE + MEETING if not os.environ.get(name)]
    if missing:
        raise DistributedError(
            f"the environment says that this process is one of several, but has no "
            f"{' and no '.join(missing)}. Start with torchrun, which sets them all."
        )
    try:
        rank, local, size = (int(os.environ[name]) for name in PLACE)
    except ValueError as error:
        raise DistributedError(f"{', '.join(PLACE)} must be whole numbers: {error}") from error
    if not 0 <= local <= rank < size:
        raise DistributedError(f"there is no rank {rank} (on this machine {local}) of {size}")
    return World(rank, size, local, _device(device, local, alone=size == 1))


def _device(name: str, local_rank: int, alone: bool = True) -> torch.device:
    """The device a process computes on: each its own GPU."""
    if name == "auto":  # processes cannot exchange gradients on Apple's MPS
        mps = alone and torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    if name != "cuda":
        return torch.device(name)
    if local_rank >= torch.cuda.device_count():
        raise DistributedError(
            f"process {local_rank} of this machine has no GPU: there are "
            f"{torch.cuda.device_count()}. Start as many with --nproc-per-node, or take the CPU."
        )
    return torch.device("cuda", local_rank)


@contextlib.contextmanager
def world(device: str = "auto", timeout: float = 1800.0) -> Iterator[World]:
    """Join the others (NCCL between GPUs, gloo between CPUs) and leave them at the end.

    timeout: seconds to wait for the others, here and in each exchange. Raises DistributedError
    if they do not all come, and what `find_world` raises.
    """
    here, limit = find_world(device), timedelta(seconds=timeout)
    if here.size > 1:
        options: dict[str, Any] = {"backend": "gloo", "timeout": limit}
        if here.device.type == "cuda":
            torch.cuda.set_device(here.device)
            options |= {"backend": "nccl", "device_id": here.device}
        try:
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                place = {"rank": here.rank, "world_size": here.size}
                options |= place | {"store": _fresh_store(here, limit)}
            dist.init_process_group(**options)
        except RuntimeError as error:  # torch's DistError is one
            raise DistributedError(
                f"rank {here.rank} of {here.size} did not meet the others at "
                f"{':'.join(os.environ[name] for name in MEETING)}: {str(error).partition('. ')[0]}"
                ". Are all nodes started, with one address?"
            ) from error
    yield here
    if here.size > 1:  # not after an error: then the others may be gone, and NCCL would wait
        dist.destroy_process_group()


def _fresh_store(here: World, limit: timedelta) -> dist.Store:
    """torchrun's store, under a name that all processes of this start share, and no earlier one.

    torchrun keeps its store over restarts, and in it the addresses of the dead (pytorch/pytorch
    issue 135712). Here rank 0 draws a name, answers every greeting with it, and waits until all
    have confirmed it.
    """
    host, port = (os.environ[name] for name in MEETING)
    store, name = dist.TCPStore(host, int(port), is_master=False, timeout=limit), uuid.uuid4().hex
    if here.rank:
        store.set(f"hello/{here.rank}", name)
        answer = store.get(f"answer/{name}").decode()  # waits; nobody dead can have answered it
        store.set(f"confirmed/{answer}/{here.rank}", "")
        return dist.PrefixStore(answer, store)
    for other in range(1, here.size):
        while not store.check([f"confirmed/{name}/{other}"]):
            store.set(f"answer/{store.get(f'hello/{other}').decode()}", name)
            time.sleep(0.01)
    return dist.PrefixStore(name, store)


def require_agreement(here: World, **values: Any) -> None:
    """Raise DistributedError in every process unless all have the same values (picklable)."""
    everyone = [values] * here.size
    if here.size > 1:
        dist.all_gather_object(everyone, values)
    for name in values:
        found = [theirs.get(name) for theirs in everyone]
        other = next((rank for rank, value in enumerate(found) if value != found[0]), None)
        if other is not None:
            raise DistributedError(
                f"the processes do not agree on {name}: rank 0 has {found[0]}, rank {other} has "
                f"{found[other]}. Do all nodes see the same files, and the same command?"
            )


def from_rank_zero(value: Any, here: World) -> Any:
    """Rank 0's `value`, in every process (picklable)."""
    box = [value]
    if here.size > 1:
        dist.broadcast_object_list(box, 0)
    return box[0]


def batch_share(batch: int, here: World, accumulate: int = 1) -> int:
    """Pictures in one backward pass of one process, where `batch` is what one step sees in all.

    Raises DistributedError unless `batch` divides by processes × accumulated passes: the mean of
    unequal parts' gradients would not be the gradient of the batch.
    """
    parts = here.size * accumulate
    if batch < 1 or batch % parts:
        below = max(batch // parts, 1) * parts
        raise DistributedError(
            f"a batch of {batch} does not divide by {here.size} processes × {accumulate} "
            f"accumulated passes: take {below} or {below + parts}"
        )
    return batch // parts


def training_loader(
    dataset: Dataset, share: int, here: World, seed: int = 0, **options: Any
) -> DataLoader:
    """Batches of `share` pictures, each picture in one process only; the rest of an epoch is left.

    `loader.sampler.set_epoch(epoch)` before each epoch, or all epochs have one order.
    """
    sampler = DistributedSampler(dataset, here.size, here.rank, seed=seed, drop_last=True)
    pin = here.device.type == "cuda"
    return DataLoader(dataset, share, sampler=sampler, drop_last=True, pin_memory=pin, **options)


def judging_loader(dataset: Dataset, share: int, here: World, **options: Any) -> DataLoader:
    """Batches for evaluation: every picture once in all, so processes may get unequal numbers.

    DistributedSampler would repeat some to make them equal; they would be counted twice.
    """
    own = range(here.rank, len(dataset), here.size)
    return DataLoader(dataset, share, sampler=own, pin_memory=here.device.type == "cuda", **options)


@torch.inference_mode()
def count_right(
    model: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], here: World
) -> dict[str, float]:
    """Loss (nats a picture), top-1 and top-5 (fractions), and how many pictures, over all ranks.

    Sums are exchanged, so unequal numbers of pictures count right. `model` must not be the DDP
    wrapper, whose forward pass waits for processes that may have no batch left.
    """
    totals = torch.zeros(4, dtype=torch.float64)
    for images, labels in batches:
        logits, labels = model(images).cpu().double(), labels.cpu()  # a Mac's GPU has no float64
        order = logits.argsort(dim=1, descending=True, stable=True)  # of equals the first first
        best = (order[:, :5] == labels[:, None]).double()
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        totals += torch.stack([loss, best[:, 0].sum(), best.sum(), loss.new_tensor(len(labels))])
    loss, top1, top5, n = sum_over_ranks(totals, here).tolist()
    return {"loss": loss / n, "top1": top1 / n, "top5": top5 / n, "pictures": int(n)}


def sum_over_ranks(values: Tensor, here: World) -> Tensor:
    """The sum of every process's `values`, in each of them (on the CPU)."""
    if here.size > 1:
        values = values.to(here.device)  # NCCL exchanges what lies on a GPU
        dist.all_reduce(values)
    return values.cpu()


def share_buffers(model: nn.Module, here: World) -> None:
    """Give every process rank 0's buffers: after the last pass BatchNorm's averages differ."""
    for buffer in model.buffers() if here.size > 1 else ():
        dist.broadcast(buffer, 0)


def wrap(model: nn.Module, here: World) -> nn.Module:
    """`model` so that its gradients are averaged over all processes; itself where it is alone."""
    if here.size == 1:
        return model
    return DistributedDataParallel(model, [here.device] if here.device.type == "cuda" else None)


def warmup_cosine(step: int, steps: int, warmup: int, peak: float) -> float:
    """The rate of `step` (from 0) of `steps`: up in a line for `warmup` steps, then half a cosine.

    Source: Goyal et al. (2017), section 2.2; Loshchilov and Hutter (2016). Built in chapter 13.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
