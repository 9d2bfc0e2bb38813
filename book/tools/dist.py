"""The built book as one zip, to be read without a network: unpack it, open index.html.

python book/tools/dist.py     _build/html, as `make book` left it, into _build/dist/
"""

import argparse
import sys
import zipfile
from pathlib import Path

import yaml

from house import ROOT

NAME = "small-pictures-deep-networks"
README = """{title}

Unpack this folder anywhere and open index.html in a browser. Nothing is fetched from a network:
pages, formulas, figures and the search come from this folder. Links to other sites need one.

Opened from disk, the search lists pages without excerpts, because a page on disk may not read its
neighbors. With Python on the machine, excerpts appear as well:

    python -m http.server --bind 127.0.0.1 --directory .

and open the address that it prints.

The button with the arrow at the top of a page gives you its notebook. To run it you need the
repository: {url}

Text and figures: CC BY 4.0. Code: MIT. See LICENSE-TEXT and LICENSE beside this file.
"""


def wanted(html: Path) -> list[Path]:
    """The files of a built book, but for what no page loads, in the order of their names."""
    idle = {".map", ".inv", ".buildinfo", ".mo", ".po"}  # the theme brings its own catalogs along
    files = (path for path in sorted(html.rglob("*")) if path.is_file())
    return [p for p in files if not idle & {p.suffix, p.name} and "locales" not in p.parts]


def pack(html: Path, target: Path, root: Path = ROOT) -> Path:
    """Write the zip. The same book gives the same bytes; a half-written zip is never left.

    Raises FileNotFoundError if there is no built book.
    """
    if not (html / "index.html").exists():
        raise FileNotFoundError(f"no built book in {html}: run `make book` first")
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    readme = README.format(title=config["title"], url=config["repository"]["url"])
    parts = {f"{NAME}/README.txt": readme.encode()}
    parts |= {f"{NAME}/{n}": (root / n).read_bytes() for n in ("LICENSE", "LICENSE-TEXT")}
    parts |= {f"{NAME}/{p.relative_to(html).as_posix()}": p for p in wanted(html)}
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_suffix(".part")
    with zipfile.ZipFile(half, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for name, part in parts.items():
            entry = zipfile.ZipInfo(name)  # of 1980, like every other
            entry.external_attr = 0o644 << 16
            content = part if isinstance(part, bytes) else part.read_bytes()
            out.writestr(entry, content, zipfile.ZIP_DEFLATED)
    half.replace(target)
    return target


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    try:
        made = pack(ROOT / "_build" / "html", ROOT / "_build" / "dist" / f"{NAME}.zip")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{made.relative_to(ROOT)}: {made.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
