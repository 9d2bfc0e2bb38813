"""Memory: how much was held at most; and when it runs out, what to change, and all is let go."""

import functools
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

# How errors without a type of their own begin or end: torch's on a CPU, MPS's, C++'s, oneDNN's.
SIGNS = ("can't allocate memory", "out of memory", "bad_alloc", "could not create a memory")


def peak(device: torch.device) -> int | None:
    """Most memory held so far, in bytes: the GPU's, else this process's; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return None
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux's ru_maxrss begins with what the process that started this one held.
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])


def ran_out(error: BaseException) -> bool:
    """Whether an error says that the memory of a GPU or of the machine has run out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def advised(kind: type[Exception], also: str = "") -> Callable[[Callable], Callable]:
    """For a function of a network and of batches: if memory runs out, raise `kind` with advice.

    also: what else to try, beyond smaller batches and smaller numbers.

    What the function held is freed first, gradients too: its variables would live on in the error,
    which a notebook keeps. So a smaller batch then fits in the same process.
    """

    def around(work: Callable) -> Callable:
        @functools.wraps(work)
        def guarded(*args, **options):
            try:
                return work(*args, **options)
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, kind) or not ran_out(error):
                    raise
                given = inspect.signature(work).bind(*args, **options).arguments
                model, batches = list(given.values())[:2]
                traceback.clear_frames(error.__traceback__)
                model.zero_grad()
                size = getattr(batches, "batch_size", None)
                found = f"batches of {size} pictures do" if size else "a batch does"
                half = f" of {size // 2}, say" if (size or 0) > 1 else ""
                raise kind(
                    f"memory ran out: {found} not fit in {work.__name__}. Try, in this order: a "
                    f"smaller batch_size{half}; precision='bf16' (on older GPUs 'fp16'){also}. "
                    "What was held is free again: no restart is needed."
                ) from error

        return guarded

    return around
