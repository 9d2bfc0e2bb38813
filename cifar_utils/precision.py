"""The number format of the forward pass: what this machine computes fast and right."""

import functools
import time

import torch
from torch import nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a forward pass computes in `precision` ("fp32", "bf16" or "fp16")."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


@functools.cache
def choose_precision(device: torch.device) -> str:
    """The fastest precision that is right on this machine: "bf16", "fp16" or "fp32".

    On a GPU: bf16 where the hardware computes in it, else fp16 (a T4 emulates bf16, slowly). On a
    CPU bf16 must be faster than fp32 on a small convolution, forward and backward, and agree with
    it to 5 %; releases of PyTorch have failed either. Apple's MPS stays at fp32. Takes a second.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type != "cpu":
        return "fp32"
    with torch.inference_mode(False), torch.enable_grad():  # whoever asks
        return _probe_cpu(device)


def _probe_cpu(device: torch.device) -> str:
    with torch.random.fork_rng(devices=[]):  # the reader's seed is not ours to spend
        images = torch.randn(64, 64, 16, 16).to(memory_format=torch.channels_last)
        conv = nn.Conv2d(64, 64, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    seconds, gradients = {}, {}
    for precision in ("fp32", "bf16"):
        times = []
        for _ in range(5):
            conv.zero_grad()
            start = time.perf_counter()
            with autocast(device, precision):
                out = conv(images)
            out.float().square().mean().backward()
            times.append(time.perf_counter() - start)
        seconds[precision], gradients[precision] = min(times), conv.weight.grad.clone()
    error = (gradients["bf16"] - gradients["fp32"]).norm() / gradients["fp32"].norm()
    return "bf16" if error < 0.05 and seconds["bf16"] < 0.9 * seconds["fp32"] else "fp32"
