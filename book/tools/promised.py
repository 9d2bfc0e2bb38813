"""The tables of the page of promises: what `make torture` and `make audit` put on record."""

from pathlib import Path

from cells import table
from house import ROOT, read


def number(value: object) -> str:
    """Counts with a comma for each thousand; other figures to three digits."""
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:.3g}"


def last(promise: str, root: Path) -> str:
    """What the last long run of a promise's tests counted, a row for each thing tried."""
    path = root / "results" / "torture.json"
    found = (read(path) if path.exists() else {}).get(promise, {})
    if not found:
        return "No long run is on record yet."
    rows = [["tried", "counted", "on"]]
    for what, entry in found.items():
        counted = [
            f"{key.replace('_', ' ').replace(' mb', ' MB')} {number(n)}"
            for key, n in entry["figures"].items()
        ]
        rows.append([what, ", ".join(counted), entry["date"]])
    return table(*rows)


def kill(root: Path = ROOT) -> str:
    return last("kill", root)


def interrupt(root: Path = ROOT) -> str:
    return last("interrupt", root)


def disk(root: Path = ROOT) -> str:
    return last("disk", root)


def together(root: Path = ROOT) -> str:
    return last("together", root)


def numbers(root: Path = ROOT) -> str:
    return last("numbers", root)


def hostile(root: Path = ROOT) -> str:
    return last("hostile", root)


def requests(root: Path = ROOT) -> str:
    return last("requests", root)


def memory(root: Path = ROOT) -> str:
    return last("memory", root)


def flaws(root: Path = ROOT) -> str:
    """How many pins were looked up, and what is known against them; or that nobody answered."""
    record = read(root / "results" / "audit.json")
    known = record["vulnerabilities"]
    if known is None:
        return (
            f"On {record['date']} the database could not be reached: the {record['pins']} pins are "
            "**not checked**."
        )
    listed = "; ".join(f"{pin} ({', '.join(ids)})" for pin, ids in known.items())
    return f"On {record['date']}, of {record['pins']} pins: {listed or 'nothing known'}."


def licences(root: Path = ROOT) -> str:
    """Packages by licence, the most frequent first."""
    groups: dict[str, list[str]] = {}
    for name, said in read(root / "results" / "audit.json")["licences"].items():
        groups.setdefault(said, []).append(name)
    rows = sorted(groups.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return table(
        ["licence", "packages", ""],
        *([said, str(len(names)), ", ".join(names)] for said, names in rows),
    )
