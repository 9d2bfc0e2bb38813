"""A thin face on torchmetrics: numbers from logits and labels."""

from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy


def accuracy(logits: Tensor, labels: Tensor, top_k: int = 1) -> float:
    """Fraction of rows whose label is among the `top_k` largest logits.

    logits: (N, C) float; labels: (N,) int64; returns a fraction in 0..1.
    """
    classes = logits.shape[1]
    share = multiclass_accuracy(logits, labels, classes, top_k=top_k, average="micro")
    return round(share.item(), 6)  # the share is a float32: what follows is not information


def per_class_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Fraction right of each class (its recall): (N, C) logits, (N,) labels → (C,) in 0..1."""
    return multiclass_accuracy(logits, labels, logits.shape[1], average="none")
