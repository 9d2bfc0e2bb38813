"""What each test leaves to the next."""

import pytest
import torch


@pytest.fixture(autouse=True)
def floats_as_defined():
    """A run flushes denormal numbers to zero for good; Hypothesis, for one, refuses such floats."""
    yield
    torch.set_flush_denormal(False)
