"""What pages say about runs, written from results/ and never by hand.

The line under each chapter's opening paragraph; in README.md and in the preface the table of
contents and the headlines beside what others report; the table of studies in studies/README.md.
Each stands between two HTML comments.

python book/tools/opening.py             write them all
python book/tools/opening.py --check     change nothing; exit 1 and name what is out of step
"""

import posixpath
import re
import sys
from pathlib import Path

import cells
from cells import code, data_of, device_of, machine_of, table, told
from house import ROOT, between, dump, keep_in_step, lines, notebooks, read, rows, source, title

BUDGETS = ("laptop", "gpu", "smoke")


def records(stem: str, root: Path = ROOT) -> list[dict]:
    """A chapter's records, the laptop's first."""
    files = (root / "results" / f"{stem}.{budget}.json" for budget in BUDGETS)
    return [read(file) for file in files if file.exists()]


def duration(seconds: float) -> str:
    minutes = seconds / 60
    return "under a minute" if minutes < 1 else f"{minutes:.0f} min"


def percent(record: dict) -> str:
    """The headline; on a split that is not the official one it says so."""
    accuracy = record["metrics"].get("test_accuracy")
    split = (record.get("dataset") or {}).get("split", "official")
    apart = "" if split == "official" else f" ({split})"
    return "" if accuracy is None else f"{accuracy:.1%}{apart}"


def spread(record: dict, root: Path = ROOT) -> str:
    """The lowest and the highest headline over seeds, where runs with other seeds are on record."""
    if record["budget"] != "laptop":
        return ""
    again = rows(root / "results" / "studies" / "headlines.jsonl")
    found = [row["test_accuracy"] for row in again if row["chapter"] == record["chapter"]]
    if not found:
        return ""
    found.append(record["metrics"]["test_accuracy"])
    return f"from {min(found):.1%} to {max(found):.1%} over {len(found)} seeds"


def where(record: dict) -> str:
    stand_in = " on the stand-in" if (record.get("dataset") or {}).get("stand_in") else ""
    return f"`{record['budget']}` on {record['device']}{stand_in}"


def line(found: list[dict], root: Path = ROOT) -> str:
    """The line a chapter opens with: where, how long and how well it last ran."""
    said = []
    for record in found:
        accuracy = f"test accuracy {percent(record)}" if percent(record) else ""
        parts = filter(None, (duration(record["seconds"]), accuracy, spread(record, root)))
        said.append(f"{where(record)}: {', '.join(parts)}")
    dates = " and ".join(sorted({record["date"][:10] for record in found}))
    return f"*As last run, {dates}: {'; '.join(said)}.*" if said else "*Not run yet.*"


def opened(notebook: dict, found: list[dict], root: Path = ROOT) -> dict:
    """`notebook` with its opening line brought up to date."""
    first, *rest = notebook["cells"]
    text = source(first)
    if "<!-- opening -->" not in text:  # after title, badge and the opening paragraph
        blocks = text.split("\n\n")
        at = next((n + 1 for n, b in enumerate(blocks) if b[:1] not in "#["), len(blocks))
        text = "\n\n".join([*blocks[:at], "<!-- opening -->\n<!-- /opening -->", *blocks[at:]])
    text = between(text, "opening", f"\n\n{line(found, root)}\n\n")
    return notebook | {"cells": [first | {"source": lines(text)}, *rest]}


def promise(notebook: dict) -> str:
    """The first sentence of a chapter's opening paragraph, links flattened."""
    blocks = source(notebook["cells"][0]).split("\n\n")
    text = next((b for b in blocks[1:] if b[:1] not in "#[<"), "")
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(text.split()))
    return re.split(r"(?<=[.!?]) ", text)[0]


def contents(root: Path = ROOT, up: str = "") -> str:
    """The table: chapters, what they give, minutes and accuracy as measured; `up` leads to root."""
    table = ["| chapter | what you get | minutes | test accuracy |", "|---|---|---|---|"]
    for path in notebooks(root):
        notebook, found = read(path), records(path.stem, root)
        minutes = "<br>".join(f"`{r['budget']}` {duration(r['seconds'])}" for r in found)
        accuracy = "<br>".join(f"`{r['budget']}` {percent(r)}" for r in found if percent(r))
        link = f"[{path.stem[:2]} {title(notebook)}]({up}notebooks/{path.name})"
        table.append(f"| {link} | {promise(notebook)} | {minutes} | {accuracy} |")
    return "\n\n" + "\n".join(table) + "\n\n"


def beside(root: Path = ROOT, up: str = "") -> str:
    """The headlines of chapters whose task others have done, each above what those report."""
    rows = [["who", "test accuracy", "data, network", "cost"]]
    entries = {entry.get("record"): entry for entry in told(root)["trained"]}
    for path in notebooks(root):
        others = [row for row in told(root)["published"] if row.get("beside") == path.stem[:2]]
        for record in records(path.stem, root) if others else []:
            value = f"{record['metrics']['test_accuracy']:.1%}"
            reached = ", ".join(filter(None, (value, spread(record, root))))
            cost = f"{duration(record['seconds'])}, {device_of(record)}"
            link = f"**[chapter {path.stem[:2]}]({up}notebooks/{path.name})**"
            name = entries[path.stem]["network"]
            name = name if isinstance(name, str) else name[record["budget"]]
            network = code(name) or entries[path.stem]["called"]
            rows.append([link, reached, f"{data_of(record)}, {network}", cost])
        for entry in (e for e in told(root)["study"] if e.get("beside") == path.stem[:2]):
            link = f"**[chapter {path.stem[:2]}]({up}notebooks/{path.name})**"
            rows += [[link, *about] for about in study_rows(entry, root)]
        for row in others:
            who = f"tutorial {row['who']}" if row["group"] == "The five tutorials" else row["who"]
            there = row["link"]
            if not up and not there.startswith("http"):  # it leads from book/
                there = posixpath.normpath(f"book/{there}")
            what = f"{row['data']}, {code(row['network']) or 'its own'}"
            rows.append([f"[{who}]({there})", row["accuracy"], what, row["cost"]])
    return "\n\n" + table(*rows) + "\n\n"


def study_rows(entry: dict, root: Path = ROOT) -> list[list[str]]:
    """What a study reached, how often, on what, and what a run cost."""
    runs = cells.rows_of(entry["name"], root)
    rows = []
    for label, again in cells.groups(runs, entry["row"], entry["accuracy"], {}).items():
        reached = cells.spread([run[entry["accuracy"]] for run in again])
        spent = sum(run["core_seconds"] for run in again) / len(again) / 60
        rows.append(
            [
                f"{reached}, {len(again)} seeds, {entry['judged']}",
                f"{data_of(again[0])}, {entry['network']} ({label.split(', ')[-1]} recipe)",
                f"{spent:.0f} core-minutes, {device_of(again[0])}",
            ]
        )
    return rows


def studies(root: Path = ROOT) -> str:
    """The table of what studies have recorded: rows, seeds, minutes, where, when."""
    table = ["| study | runs | seeds | minutes | device | last run |", "|---|---|---|---|---|---|"]
    total = [0, 0.0]  # runs, seconds
    for file in sorted((root / "results" / "studies").glob("*.jsonl")):
        runs = rows(file)
        seeds = len({run.get("seed") for run in runs})
        seconds = sum(run["seconds"] for run in runs)
        total = [total[0] + len(runs), total[1] + seconds]
        minutes = f"{seconds / 60:.0f}"
        devices = ", ".join(sorted({machine_of(run) for run in runs}))
        date = max(str(run.get("date", ""))[:10] for run in runs)
        table.append(f"| `{file.stem}` | {len(runs)} | {seeds} | {minutes} | {devices} | {date} |")
    table.append(f"| all | {total[0]} | | {total[1] / 60:.0f} | | |")
    return "\n\n" + "\n".join(table) + "\n\n"


def expected(root: Path = ROOT) -> dict[Path, str]:
    """Every file that holds generated text, with the text it should have."""
    files = {p: dump(opened(read(p), records(p.stem, root), root)) for p in notebooks(root)}
    for path, made in (
        (root / "README.md", {"contents": contents(root), "beside": beside(root)}),
        (
            root / "book" / "preface.md",
            {"contents": contents(root, "../"), "beside": beside(root, "../")},
        ),
        (root / "studies" / "README.md", {"studies": studies(root)}),
    ):
        if path.exists():
            text = path.read_text(encoding="utf-8")
            for name, new in made.items():
                text = between(text, name, new)
            files[path] = text
    return files


if __name__ == "__main__":
    sys.exit(keep_in_step(expected, __doc__.splitlines()[0]))
