"""A thin face on torchmetrics and SciPy: numbers from logits and labels."""

from collections.abc import Sequence

import torch
from scipy.stats import binomtest
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)


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


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts (C, C) int64: row = the true class, column = the class with the largest logit."""
    return multiclass_confusion_matrix(logits, labels, logits.shape[1])


def wilson_interval(right: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of shares that `right` of `total` leave plausible, as fractions.

    Source: Wilson (1927), "Probable inference"; computed by SciPy. Unlike mean ± 2 standard
    errors it stays within 0..1 and has a width at 0 and at 1. Raises ValueError unless
    0 <= right <= total and total > 0.
    """
    found = binomtest(int(right), int(total)).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error: mean gap of confidence and accuracy over `bins` of confidence.

    probabilities: (N, C), rows that sum to 1; labels: (N,) int64; returns a fraction in 0..1.
    Source: Guo et al. (2017), "On Calibration of Modern Neural Networks", equation 3.
    """
    classes = probabilities.shape[1]
    probabilities = probabilities.double()
    return multiclass_calibration_error(probabilities, labels, classes, n_bins=bins).item()


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T > 0 for which softmax(logits / T) has the lowest cross-entropy on these labels.

    Above 1 the network was too sure of itself, below 1 not sure enough. Fit it on pictures that
    neither trained the network nor judge it. Source: Guo et al. (2017), section 4.2.
    Built in chapter 10
    """
    logits, labels = logits.double().clone(), labels.clone()  # usable outside inference mode
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / log_t.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return log_t.exp().item()


def rejection_curve(
    confidence: Tensor, correct: Tensor, thresholds: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """What is answered and what is right of it, when answers below a threshold are refused.

    confidence: (N,) in 0..1; correct: (N,) bool. Returns two (len(thresholds),) tensors: the
    coverage (fraction answered) and the accuracy among the answered, NaN where none is.
    """
    answered = confidence[None] >= torch.as_tensor(thresholds)[:, None]
    right = (answered & correct[None]).sum(1)
    return answered.float().mean(1), right / answered.sum(1)
