"""Muon: an optimizer for matrices, here for the filters of convolutions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def orthogonalize(matrix: Tensor, steps: int = 3) -> Tensor:
    """Roughly the nearest matrix with orthonormal rows or columns: (M, N) → (M, N).

    Newton-Schulz steps with Jordan's coefficients: after three, singular values that were 0.02 of
    the norm or more lie between 0.6 and 1.3.
    Built in chapter 12
    """
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalized, for the filters of convolutions (K, C, 3, 3).

    A layer is a matrix (K, C·9), held at norm √K; every direction moves about equally far, by `lr`.
    Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/. Built in chapter 12
    """

    def __init__(self, params: Sequence[nn.Parameter], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                memory = self.state[weight].setdefault("memory", torch.zeros_like(weight))
                memory.mul_(group["momentum"]).add_(weight.grad)
                ahead = weight.grad + group["momentum"] * memory
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.sub_(orthogonalize(ahead.flatten(1)).view_as(weight), alpha=group["lr"])
