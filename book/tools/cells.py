"""What the cells of the book's tables say: records in a reader's words.

What records cannot say, as a network's name or a published figure, stands in book/zoo.toml.
"""

import json
import statistics
import sys
import tomllib
from pathlib import Path

from house import ROOT, rows

sys.path.insert(0, str(ROOT))  # for apps, where a tool runs as a program

NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


def told(root: Path = ROOT) -> dict[str, list[dict]]:
    """book/zoo.toml."""
    return tomllib.loads((root / "book" / "zoo.toml").read_text(encoding="utf-8"))


def rows_of(study: str, root: Path = ROOT) -> list[dict]:
    """What a study has recorded; nothing where it has not."""
    return rows(root / "results" / "studies" / f"{study}.jsonl")


def table(*rows: list[str]) -> str:
    """Rows of cells, the first of them the head, as Markdown."""
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def chapter(stem: str, text: str = "") -> str:
    """A link to a chapter, from a page in book/."""
    return f"[{text or stem[:2]}](../notebooks/{stem}.ipynb)"


def data_of(record: dict) -> str:
    """The name of a record's data, and its split where that is not the official one."""
    dataset = record.get("dataset") or {"stand_in": True}
    if dataset["stand_in"]:
        return "stand-in"
    split = "" if dataset["split"] == "official" else f" ({dataset['split']})"
    return NAMES[dataset["name"]] + split


def machine_of(record: dict) -> str:
    return str(record.get("device", "")).replace(" 1 threads", " 1 thread")


def device_of(record: dict) -> str:
    return f"{machine_of(record)}, {record['precision']}"


def memory(record: dict) -> str:
    peak = record.get("peak_memory_bytes")
    return f"{peak / 1e9:.1f} GB" if peak else ""


def versions(record: dict) -> str:
    found = record["versions"]
    return ", ".join(f"{name} {found[name].partition('+')[0]}" for name in sorted(found))


def history(record: dict) -> dict[str, list]:
    """The curves of a record's training; of the first, where it has several."""
    found = record.get("history") or {}
    found = json.loads(found) if isinstance(found, str) else found
    return found if "lr" in found else next(iter(found.values()), {})


def minutes(record: dict) -> str:
    """Minutes of the training, where they are known apart; else of the whole chapter, or run."""
    known = record.get("metrics", {}).get("train_minutes")
    apart = known or sum(history(record).get("seconds", [])) / 60
    if apart:
        return f"{apart:.1f}"
    return f"{record['seconds'] / 60:.1f}" + (" (chapter)" if "chapter" in record else "")


def spread(values: list[float]) -> str:
    """The mean over seeds and their standard deviation, as in 61.3 ± 0.4%."""
    mean = 100 * statistics.mean(values)
    return f"{mean:.1f} ± {100 * statistics.stdev(values):.1f}%" if values[1:] else f"{mean:.1f}%"


def groups(rows: list[dict], row: str, accuracy: str, where: dict) -> dict[str, list[dict]]:
    """Runs that differ in nothing but their seed, by the words of the template `row`.

    Raises ValueError where the words do not tell two runs of one seed apart.
    """
    found: dict[str, list[dict]] = {}
    for run in rows:
        if accuracy in run and where.items() <= run.items():
            found.setdefault(row.format(**run), []).append(run)
    for label, runs in found.items():
        if len({run["seed"] for run in runs}) < len(runs):
            raise ValueError(f"{label!r} names several runs of one seed: say more in `row`")
    return found


def counted(name: str, classes: int) -> tuple[int, int]:
    """Parameters and multiply-adds of a network of the zoo."""
    from apps import zoo  # brings torch along, which nothing else here needs

    return zoo.count(name, classes)
