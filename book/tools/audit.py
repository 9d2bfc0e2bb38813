"""`make audit`: what the pins bring along. Known vulnerabilities, and licences.

Vulnerabilities come from the OSV database (https://osv.dev), which is asked for every pin of
requirements.txt. Where it cannot be reached the record says so, instead of "none". Licences come
from what the installed packages say of themselves. Both go to results/audit.json, from which the
page of promises is written.
"""

import datetime
import importlib.metadata
import json
import re
import sys

import httpx
from packaging.requirements import Requirement

from house import ROOT

DATABASE = "https://api.osv.dev/v1/querybatch"
RECORD = ROOT / "results" / "audit.json"


# One licence, told in several ways.
SAME = {
    "MIT License": "MIT",
    "Apache Software License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "BSD License": "BSD",
    "3-Clause BSD License": "BSD-3-Clause",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
}


class NotReached(RuntimeError):
    """The database gave no answer; says why."""


def normal(name: str) -> str:
    """The one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> list[tuple[str, str]]:
    """Name and version of every pin in the text of a requirements file."""
    lines = [line for line in text.splitlines() if line and line[0] not in " #-"]
    found = [Requirement(line) for line in lines]
    return sorted({(pin.name, str(pin.specifier).removeprefix("==")) for pin in found})


def vulnerabilities(wanted: list[tuple[str, str]], url: str = DATABASE) -> dict[str, list[str]]:
    """ "name version" → ids of what is known against it; raises NotReached."""
    queries = [
        {"package": {"ecosystem": "PyPI", "name": name}, "version": version.partition("+")[0]}
        for name, version in wanted
    ]
    try:
        answer = httpx.post(url, json={"queries": queries}, timeout=30).raise_for_status().json()
        results = answer["results"]
        if len(results) != len(wanted):
            raise ValueError(f"{len(results)} answers to {len(wanted)} questions")
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise NotReached(f"{type(error).__name__}: {error}".partition("\n")[0]) from error
    return {
        f"{name} {version}": [entry["id"] for entry in result["vulns"]]
        for (name, version), result in zip(wanted, results, strict=True)
        if result.get("vulns")
    }


def licence(meta: importlib.metadata.PackageMetadata) -> str:
    """What a package says of its licence: an expression, a classifier or a short text."""
    if expression := meta.get("License-Expression"):
        return expression
    classifiers = [c for c in meta.get_all("Classifier") or [] if c.startswith("License ::")]
    classified = [c.rpartition(" :: ")[2] for c in classifiers if not c.endswith("OSI Approved")]
    short = (meta.get("License") or "").strip().partition("\n")[0]
    said = classified or ([short] if 0 < len(short) < 60 else ["not said"])
    return ", ".join(SAME.get(name, name) for name in said)


def licences(wanted: list[tuple[str, str]]) -> dict[str, str]:
    """Name → licence, of the pins that are installed here; others are for other systems."""
    found = {}
    for name, _ in wanted:
        try:
            found[name] = licence(importlib.metadata.metadata(name))
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed here"
    return found


def main() -> int:
    """Ask, write the record; 1 if something is known against a pin."""
    wanted = pins((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    known, why = None, ""
    try:
        known = vulnerabilities(wanted)
    except NotReached as error:
        why = str(error)
    record = {
        "date": datetime.date.today().isoformat(),
        "pins": len(wanted),
        "vulnerabilities": known,  # null: the database was not reached
        "licences": licences(wanted),
    }
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if known is None:
        print(f"vulnerabilities NOT CHECKED, the database was not reached: {why}")
        return 0
    print(*(f"{pin}: {', '.join(ids)}" for pin, ids in known.items()), sep="\n")
    print(f"{len(wanted)} pins, {len(known)} with something known against them")
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main())
