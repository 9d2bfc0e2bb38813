"""How hard tests try to break things: a little in `make test`, long in `make torture`.

Such a test takes its number of tries from `rounds`, draws them from a seed, and puts what it
counted on record with `figures`; only a long run writes, to results/torture.json.
"""

import json
import os

import torch

from cifar_utils.runs import ROOT, environment, replace_text

LONG = bool(os.environ.get("CIFAR_TORTURE"))
RECORD = ROOT / "results" / "torture.json"


def rounds(quick: int, long: int) -> int:
    """How many tries this run makes."""
    return long if LONG else quick


def figures(promise: str, what: str, **counted: float) -> None:
    """Put on record what a long run counted: `promise` names a section, `what` a line of it."""
    if not LONG:
        return
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    stamp = environment(torch.device("cpu"))
    entry = {"date": stamp["date"], "versions": stamp["versions"], "figures": counted}
    record.setdefault(promise, {})[what] = entry
    replace_text(RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
