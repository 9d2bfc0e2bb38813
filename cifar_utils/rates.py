"""Finding a learning rate."""

import copy
import statistics
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def range_test(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    low: float = 1e-4,
    high: float = 10.0,
    explode: float = 4.0,
) -> tuple[list[float], list[float]]:
    """The learning-rate range test: one pass, each step at a higher rate. Returns rates, losses.

    batches: of images (B, 3, H, W) and labels (B,), of known length. The rate rises
    exponentially from `low` to `high`, in every parameter group alike; a loss is the batch's
    cross-entropy in nats, before its step. Stops early at a loss above `explode` times the
    median so far, or one that is not a number. Afterwards model and optimizer are as they were;
    the batches' generator has moved on. Raises ValueError unless 0 < low < high and there are
    two batches or more.

    Source: Smith (2015), "Cyclical Learning Rates", arXiv:1506.01186, section 3.3, where the
    rate rises linearly. Built in chapter 9
    """
    if not 0 < low < high or len(batches) < 2:
        raise ValueError(f"no rates from {low} to {high} in {len(batches)} batches")
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    was_training, device = model.training, next(model.parameters()).device
    rates, losses = [], []
    try:
        model.train()
        for step, (images, labels) in enumerate(batches):
            rates.append(low * (high / low) ** (step / (len(batches) - 1)))
            for group in optimizer.param_groups:
                group["lr"] = rates[-1]
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if not losses[-1] <= explode * statistics.median(losses):  # nor is NaN
                break
    finally:
        model.load_state_dict(before[0])
        optimizer.load_state_dict(before[1])
        optimizer.zero_grad()
        model.train(was_training)
    return rates, losses
