"""What the book's tools share: where things lie, and notebooks read and written whole."""

import argparse
import glob
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACEHOLDER = "https://github.com/OWNER/small-pictures-deep-networks"


def notebooks(root: Path = ROOT) -> list[Path]:
    """The chapters in reading order."""
    return sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def read(path: Path) -> dict:
    """A notebook, or another file of JSON, as plain values. Raises ValueError, naming it."""
    return parsed(path.read_bytes(), path)


def rows(path: Path) -> list[dict]:
    """What a study has recorded; nothing where it has not. Raises ValueError, naming the file."""
    return [parsed(line, path) for line in path.read_bytes().splitlines()] if path.exists() else []


def parsed(text: bytes, path: Path) -> dict:
    """The dict in a text of JSON that stands in `path`."""
    try:
        return {**json.loads(text)}
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path.name} does not hold what it should: {error}") from error


def write(path: Path, text: str) -> bool:
    """Put `text` in place in one step, or not at all; False if it stood there already."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):  # by a killed call
        if time.time() - left.stat().st_mtime > 60:  # a younger one may be being written
            left.unlink()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return True


def dump(notebook: dict) -> str:
    """The text of a notebook file, laid out as Jupyter itself does."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def source(cell: dict) -> str:
    """A cell's text, whether it is stored as one string or as lines."""
    return "".join(cell["source"])


def lines(text: str) -> list[str]:
    """The form in which a notebook file stores text: lines with their ends."""
    return text.splitlines(keepends=True)


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def title(notebook: dict) -> str:
    """The chapter's title: the heading that opens its first cell."""
    return source(notebook["cells"][0]).splitlines()[0].removeprefix("# ").strip()


def between(text: str, name: str, new: str) -> str:
    """`text` with what stands between `<!-- name -->` and `<!-- /name -->` replaced.

    Raises ValueError if the markers are missing.
    """
    pattern = rf"(<!-- {name} -->)(.*?)(<!-- /{name} -->)"
    if not re.search(pattern, text, re.S):
        raise ValueError(f"no markers <!-- {name} --> … <!-- /{name} --> to write between")
    return re.sub(pattern, lambda m: m[1] + new + m[3], text, flags=re.S)


def write_all(files: dict[Path, str], root: Path = ROOT) -> None:
    """Write what differs, and name it."""
    for path, text in files.items():
        if write(path, text):
            print("written:", path.relative_to(root))


def keep_in_step(expected: Callable[[], dict[Path, str]], about: str) -> int:
    """The command line of a tool that writes generated text: write it all, or with --check nothing.

    expected: every file that holds such text, with the text it should have. Returns 1 if --check
    found one that differs, which it names.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if any would")
    if not parser.parse_args().check:
        write_all(expected())
        return 0
    stale = [p for p, text in expected().items() if p.read_text(encoding="utf-8") != text]
    for path in stale:
        print("out of step:", path.relative_to(ROOT))
    return 1 if stale else 0
