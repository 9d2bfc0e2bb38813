"""The network behind the server, and the batches in which it is asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from cifar_utils import data, export
from cifar_utils.weights import WeightsError


class Network:
    """An ONNX network and its description: uint8 pictures in, probabilities out.

    path: `<name>.onnx`, beside `<name>.json`. threads: what onnxruntime computes with.
    Raises ValueError if the two do not belong together or cannot answer.
    """

    def __init__(self, path: str | Path, threads: int = 1):
        try:
            self.session, about = export.session(path, threads)
            self.name, self.classes = Path(path).stem, tuple(about["classes"])
            self.size, self.mean, self.std = about["input_size"], about["mean"], about["std"]
            # Two, so that a batch size fixed at one is found out now.
            self(np.zeros((2, 3, self.size, self.size), np.uint8))
        except WeightsError:
            raise
        except Exception as error:  # onnxruntime's own, or whatever a garbled description causes
            raise ValueError(f"{path} is not what its description says: {error}") from error

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Probabilities `(N, C) float64` of pictures `(N, 3, H, W) uint8`."""
        batch = data.normalize(torch.from_numpy(images), self.mean, self.std).numpy()
        (logits,) = self.session.run(["logits"], {"images": batch})
        if not np.isfinite(logits).all():
            raise ArithmeticError("the network's answer is not finite")
        shares = np.exp(logits - logits.max(1, keepdims=True).astype(np.float64))
        return shares / shares.sum(1, keepdims=True)


class Full(Exception):
    """As many requests are inside as may be."""


class Batcher:
    """Collects pictures from simultaneous requests and asks for all of them at once.

    ask: pictures `(N, 3, H, W) uint8` to one row each; runs in a thread of its own, one batch at a
    time. A batch closes when it has `batch` pictures, when it has waited `wait` seconds, or when
    no one else is inside who could join it: a lonely request never waits.
    """

    def __init__(self, ask: Callable, batch: int, wait: float, room: int):
        self.ask, self.batch, self.wait, self.room = ask, batch, wait, room
        self.inside = 0
        self.queue: asyncio.Queue = asyncio.Queue()
        self.thread = ThreadPoolExecutor(1, "network")

    def check(self) -> None:
        """Raises Full if there is no place left."""
        if self.inside >= self.room:
            raise Full

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place inside, from before a picture is decoded until it is answered. Raises Full."""
        self.check()
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def answer(self, image: np.ndarray) -> np.ndarray:
        """The row of one picture `(3, H, W) uint8`."""
        future = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((image, future))
        return await future

    async def work(self, observe: Callable[[int], None]) -> None:
        """Batch after batch, until cancelled; `observe` is told the size of each."""
        loop = asyncio.get_running_loop()
        while True:
            jobs = [await self.queue.get()]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.wait):
                    while len(jobs) < min(self.batch, self.inside):
                        jobs.append(await self.queue.get())
            jobs = [job for job in jobs if not job[1].done()]  # whose request has given up
            if not jobs:
                continue
            images, futures = zip(*jobs, strict=True)
            observe(len(images))
            try:
                rows = await loop.run_in_executor(self.thread, self.ask, np.stack(images))
            except Exception as error:  # theirs alone: the next batch may do well
                rows = [error] * len(futures)
            for row, future in zip(rows, futures, strict=True):
                if future.done():
                    continue
                (future.set_exception if isinstance(row, Exception) else future.set_result)(row)
            await asyncio.sleep(
                0
            )  # who is answered leaves, before the next batch looks who is inside
