"""The tables of the zoo, of "which recipe", for teachers and of the status page, from results/.

What records cannot say, as a network's name or a published figure, stands in book/zoo.toml. Each
table stands between two HTML comments.

python book/tools/tables.py             write them all
python book/tools/tables.py --check     change nothing; exit 1 and name what is out of step
"""

import re
import statistics
import sys
from pathlib import Path

import benched
import promised
from cells import (
    chapter,
    code,
    counted,
    data_of,
    device_of,
    groups,
    history,
    memory,
    minutes,
    rows_of,
    spread,
    table,
    told,
    versions,
)
from house import ROOT, between, keep_in_step, notebooks, read, source, title
from opening import duration, records

# --- The zoo --------------------------------------------------------------------------------------


def networks(root: Path = ROOT) -> str:
    """Every network that `apps.zoo` builds, counted."""
    from apps import zoo

    rows = [["name", "what it is", "parameters", "million multiply-adds"]]
    for name, network in zoo.NETWORKS.items():
        classes = zoo.default_classes(name)
        size, work = counted(name, classes)
        what = network.about
        if network.size != 32:
            what += f", {network.size} pixels, {classes:,} classes"
        rows.append([code(name), what, f"{size:,}", f"{work / 1e6:,.1f}"])
    return table(*rows)


def trained(root: Path = ROOT) -> str:
    """Records of one training each: chapters at all their budgets, and studies of one run."""
    rows = [["network, parameters", "recipe", "accuracy, data", "minutes, device", "again"]]
    for entry in told(root)["trained"]:
        stem, study = entry.get("record"), entry.get("study", "")
        for record in records(stem, root) if stem else rows_of(study, root):
            budget = record.get("budget", "laptop")
            network = entry["network"]
            name = network if isinstance(network, str) else network[budget]
            classes = 100 if data_of(record).startswith("CIFAR-100") else 10
            size = f"<br>{counted(name, classes)[0]:,}" if name else ""
            network = (code(name) or entry.get("called", "none")) + size
            again = f"make study NAME={study}"
            if stem:
                again = f"make run CHAPTERS={stem[:2]}" + f" BUDGET={budget}" * (budget != "laptop")
            also = entry.get("again", "") if budget == "laptop" else ""
            run = "<br>".join(code(line) for line in (again, also) if line)
            value = record.get("metrics", record)["test_accuracy"]
            recipe = entry["recipe"].format(epochs=len(history(record).get("lr", [])))
            recipe = f"{chapter(stem)}: {recipe}" if stem else recipe
            reached = f"{value:.1%}<br>{data_of(record)}"
            cost = f"{minutes(record)}<br>{device_of(record)}"
            rows.append([network, recipe, reached, cost, run])
    return table(*rows)


def repeated(root: Path = ROOT) -> str:
    """A table for each study with seeds: mean, spread, minutes of one run."""
    parts = []
    for entry in told(root)["study"]:
        rows, where = rows_of(entry["name"], root), entry.get("where", {})
        found = groups(rows, entry["row"], entry["accuracy"], where)
        several = {label: runs for label, runs in found.items() if len(runs) > 1}
        if not several:
            continue
        first = next(iter(several.values()))[0]
        sets = sorted({data_of(run) for runs in several.values() for run in runs})
        test = where.get("judge") == "test" or entry["accuracy"].startswith("test")
        judged = "test" if test else "validation"
        page = root / "notebooks" / f"{entry['chapter']}.ipynb"
        ahead = f"Chapter {chapter(page.stem)}. " if page.exists() else ""
        parts.append(
            f"### {entry['title']}\n\n{ahead}{' and '.join(sets)}; {entry['about']}. Network: "
            f"{entry['network']}. {device_of(first)}. Again: `make study NAME={entry['name']}`."
        )
        lines = [["row", f"{judged} accuracy", "seeds", "minutes a run"]]
        for label, runs in several.items():
            mean = statistics.mean(run["seconds"] for run in runs) / 60
            values = spread([run[entry["accuracy"]] for run in runs])
            label += f", {data_of(runs[0])}" if len(sets) > 1 else ""
            lines.append([label, values, str(len(runs)), f"{mean:.1f}"])
        parts.append(table(*lines))
    return "\n\n".join(parts)


def published(root: Path = ROOT) -> str:
    """What others report: a table for each group, each figure with its link."""
    head = ["who (where read)", "data, network", "accuracy", "cost as told; remarks", "here"]
    found: dict[str, list[list[str]]] = {}
    for row in told(root)["published"]:
        who = f"[{row['who']}]({row['link']})<br>({row['seen']})"
        what = f"{row['data']}<br>{code(row['network']) or 'its own'}"
        cost = "; ".join(filter(None, (row["cost"], row["about"])))
        cells = [who, what, row["accuracy"], cost, code(row["run"])]
        found.setdefault(row["group"], [head]).append(cells)
    return "\n\n".join(f"### {group}\n\n{table(*rows)}" for group, rows in found.items())


def shipped(root: Path = ROOT) -> str:
    """The trained networks that come with the book."""
    rows = [["file", "architecture", "accuracy", "size", "recorded in"]]
    for path in sorted((root / "weights").glob("*.json")):
        made, size = read(path), path.with_suffix(".safetensors").stat().st_size
        shape = made["architecture"]
        network = f"{shape['block']} × {shape['layers']}, width {shape['width']}"
        accuracy = f"{made['test_accuracy']:.1%}, {data_of(made)}"
        rows.append([code(path.stem), network, accuracy, f"{size / 1e6:.1f} MB", made["results"]])
    return table(*rows)


# --- Which recipe, teaching, status ---------------------------------------------------------------


def few(root: Path = ROOT) -> str:
    """Accuracy by pictures a class and method; bold: within twice the spread of the best."""
    rows = rows_of("few_pictures", root)
    found = groups(rows, "{per_class} {method}", "accuracy", {"judge": "test"})
    sizes = sorted({int(label.split()[0]) for label in found})
    methods = ("frozen", "unfrozen", "gradual", "scratch")
    rows = [["pictures a class", *methods]]
    for size in sizes:
        runs = {m: [run["accuracy"] for run in found[f"{size} {m}"]] for m in methods}
        best = max(runs.values(), key=statistics.mean)
        limit = statistics.mean(best) - 2 * max(map(statistics.stdev, runs.values()))
        cells = []
        for method, values in runs.items():
            seconds = statistics.mean(run["seconds"] for run in found[f"{size} {method}"])
            mark = "**" if statistics.mean(values) >= limit else ""
            cells.append(f"{mark}{spread(values)}{mark}<br>{seconds:.0f} s")
        rows.append([str(size), *cells])
    return table(*rows)


def choices(root: Path = ROOT) -> str:
    """What you have → what to do, the command, and what it cost when it was recorded."""
    rows = [["what you have", "machine", "what to do", "command", "as recorded"]]
    for entry in told(root)["choice"]:
        if "published" in entry:
            cost = entry["published"]
        elif "study" in entry:
            runs = groups(rows_of(entry["study"], root), "", entry["accuracy"], entry["where"])[""]
            seconds = statistics.mean(run["seconds"] for run in runs)
            values = spread([run[entry["accuracy"]] for run in runs])
            cost = f"{values}, {len(runs)} seeds, {data_of(runs[0])}; {seconds:.0f} s"
        else:
            stem, _, budget = entry["record"].partition(".")
            found = [r for r in records(stem, root) if r["budget"] == budget]
            cost = "not recorded yet"
            for r in found:
                value, data = r["metrics"][entry["metric"]], entry.get("data", data_of(r))
                cost = f"{value:.1%}, {data}; minutes: {minutes(r)}"
        rows.append([entry["have"], entry["machine"], entry["do"], code(entry["run"]), cost])
    return table(*rows)


def timings(root: Path = ROOT) -> str:
    """What a chapter asks of a classroom's machine, as last run at laptop."""
    rows = [["chapter", "runs in", "peak memory", "pictures"]]
    for path in notebooks(root):
        for record in [r for r in records(path.stem, root) if r["budget"] == "laptop"]:
            link = chapter(path.stem, f"{path.stem[:2]} {title(read(path))}")
            rows.append([link, duration(record["seconds"]), memory(record), data_of(record)])
    return table(*rows)


def exercises(root: Path = ROOT) -> str:
    """The exercises of each chapter, by their titles."""
    rows = [["chapter", "exercises"]]
    for path in notebooks(root):
        cells = [source(c) for c in read(path)["cells"] if c["cell_type"] == "markdown"]
        part = "\n\n".join(cells).partition("\n## Exercises\n")[2] or "\n\n".join(cells)
        titles = re.findall(r"^\*\*\d+\. ([^*]+?)[.:]?\*\*", part, re.M)
        rows.append([chapter(path.stem), " · ".join(titles)])
    return table(*rows)


def ran(root: Path = ROOT) -> str:
    """For each chapter and budget: when, where, for how long, with which data and versions."""
    rows = [["chapter", "date", "budget", "device", "minutes", "peak memory", "data, split"]]
    sources: dict[str, set[str]] = {}
    stamps: dict[str, set[str]] = {}
    for path in notebooks(root):
        for r in records(path.stem, root):
            if dataset := r["dataset"]:
                data = f"{data_of(r).partition(' (')[0]}, {dataset['split']}"
                sources.setdefault(f"{data}: {dataset['source']}", set()).add(path.stem[:2])
            else:
                data = "none"
            stamps.setdefault(versions(r), set()).add(path.stem[:2])
            first = [chapter(path.stem), r["date"][:10], code(r["budget"]), device_of(r)]
            rows.append([*first, f"{r['seconds'] / 60:.1f}", memory(r), data])
    notes = [
        f"- {kind}: {what} (chapters {', '.join(sorted(where))})"
        for kind, found in (("data", sources), ("versions", stamps))
        for what, where in sorted(found.items())
    ]
    return table(*rows) + "\n\n" + "\n".join(notes)


def studied(root: Path = ROOT) -> str:
    """The same in short for studies."""
    rows = [["study", "last run", "device", "runs", "minutes", "data", "torch"]]
    for file in sorted((root / "results" / "studies").glob("*.jsonl")):
        runs = rows_of(file.stem, root)
        places = "; ".join(sorted({device_of(run) for run in runs}))
        spent = f"{sum(run['seconds'] for run in runs) / 60:.0f}"
        sets = ", ".join(sorted({data_of(run) for run in runs}))
        torch = "; ".join(sorted({run["versions"]["torch"].partition("+")[0] for run in runs}))
        last = max(run["date"] for run in runs)
        rows.append([code(file.stem), last, places, str(len(runs)), spent, sets, torch])
    return table(*rows)


TABLES = {
    "zoo": (networks, trained, repeated, published, shipped),
    "which_recipe": (few, choices),
    "teachers": (timings, exercises),
    "status": (ran, studied),
    "promises": (
        promised.kill,
        promised.interrupt,
        promised.disk,
        promised.together,
        promised.numbers,
        promised.hostile,
        promised.requests,
        promised.memory,
        promised.flaws,
        promised.licences,
    ),
    "benchmarks": (
        benched.machine,
        benched.loading,
        benched.growth,
        benched.recipes,
        benched.imports,
        benched.serving,
        benched.smoke,
    ),
}


def expected(root: Path = ROOT) -> dict[Path, str]:
    """Every page that holds such tables, with the text it should have."""
    files = {}
    for page, makers in TABLES.items():
        path = root / "book" / f"{page}.md"
        files[path] = path.read_text(encoding="utf-8")
        for make in makers:
            files[path] = between(files[path], make.__name__, f"\n\n{make(root)}\n\n")
    return files


if __name__ == "__main__":
    sys.exit(keep_in_step(expected, __doc__.splitlines()[0]))
