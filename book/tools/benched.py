"""The tables of the benchmarks page, from what `make bench` wrote into results/benchmarks.json."""

from pathlib import Path

from cells import table
from house import ROOT, read


def measured(benchmark: str, root: Path) -> list[dict]:
    """The comparisons of one file in benchmarks/; none where it has not run."""
    path = root / "results" / "benchmarks.json"
    rows = read(path)["rows"] if path.exists() else []
    return [row for row in rows if row["benchmark"] == benchmark]


def number(value: object) -> str:
    """Counts with a comma for each thousand; ratios and times to three digits."""
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def compared(benchmark: str, root: Path) -> str:
    """A row for each comparison: its ratio first, then whatever else it measured."""
    rows = measured(benchmark, root)
    if not rows:
        return "Not measured yet."
    keys = list(dict.fromkeys(k for row in rows for k in row if k not in ("benchmark", "name")))
    head = ["what", *(key.replace("_", " ") for key in keys)]
    cells = [[row["name"], *(number(row.get(key, "")) for key in keys)] for row in rows]
    return table(head, *cells)


def machine(root: Path = ROOT) -> str:
    """When, where and with what everything on the page was measured."""
    found = read(root / "results" / "benchmarks.json")
    what, versions = found["machine"], found["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Measured on {found['date']}: {what['cpus']} CPU cores ({what['processor']}, "
        f"{what['cpu_capability']}), {what['threads']} threads, accelerator {what['accelerator']}, "
        f"{what['system']}, Python {what['python']}, {packages}."
    )


def loading(root: Path = ROOT) -> str:
    return compared("loader", root)


def growth(root: Path = ROOT) -> str:
    return compared("growth", root)


def recipes(root: Path = ROOT) -> str:
    return compared("recipe", root)


def imports(root: Path = ROOT) -> str:
    return compared("imports", root)


def serving(root: Path = ROOT) -> str:
    return compared("serve", root)


def smoke(root: Path = ROOT) -> str:
    return compared("chapters", root)
