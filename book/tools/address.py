"""The repository's public address: one setting in _config.yml, and what follows from it.

python book/tools/address.py             bring badges and bootstrap cells in step with the setting
python book/tools/address.py URL         change the setting first, then the same
python book/tools/address.py --check     change nothing; exit 1 and name what is out of step
"""

import argparse
import re
import sys
from pathlib import Path

from house import PLACEHOLDER, ROOT, dump, lines, notebooks, read, source, write

SETTING = re.compile(r"^(repository:\n(?:[ ]+.*\n)*?[ ]+url:[ ]*)(\S+)", re.M)
BADGE = re.compile(r"^\[!\[Open in Colab\].*\n\n?", re.M)
FOLLOWERS = ("README.md", "CONTRIBUTING.md", "CITATION.cff", "pyproject.toml", "book/*.md")
# What Colab lacks, in every chapter and in some; names that both pip and import understand.
NEEDED = "safetensors torchinfo torchmetrics"
ALSO = {
    "10_per_class": " captum",
    "14_deploy": " onnx onnxruntime onnxscript prometheus_client python_multipart",
}
BOOTSTRAP = """\
# On Google Colab: fetch the book's package, once. Anywhere else this cell does nothing.
import sys

if "google.colab" in sys.modules:
    import importlib.util
    import os
    import subprocess

    url = "{url}"
    folder = "/content/{name}"
    if not os.path.exists(folder):
        subprocess.run(["git", "clone", "--depth=1", url, folder], check=True)
    sys.path.insert(0, folder)
    needed = ({needed}
    )
    if absent := [p for p in needed if not importlib.util.find_spec(p)]:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *absent], check=True)
""".rstrip()


def address(root: Path = ROOT) -> str:
    """The setting `repository: url` of _config.yml."""
    found = SETTING.search((root / "_config.yml").read_text(encoding="utf-8"))
    if not found:
        raise SystemExit("_config.yml: no setting `repository: url`; add it")
    return found[2].strip("\"'")


def badge(url: str, stem: str) -> str:
    """The line of Markdown that opens the notebook `stem` in Colab."""
    path = url.removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{stem}.ipynb"
    return f"[![Open in Colab](../book/_static/colab.svg)]({link})"


def bootstrap(url: str, stem: str) -> str:
    """The code of the first cell of the notebook `stem`."""
    names = (NEEDED + ALSO.get(stem, "")).split()
    needed = "".join(f'\n        "{name}",' for name in names)
    return BOOTSTRAP.format(url=url, name=url.rpartition("/")[2], needed=needed)


def addressed(notebook: dict, url: str, stem: str) -> dict:
    """`notebook` with its badge under the title and its bootstrap cell after the first cell."""
    first, *rest = notebook["cells"]
    head, _, body = BADGE.sub("", source(first)).partition("\n")
    text = f"{head}\n\n{badge(url, stem)}\n\n{body.lstrip()}".rstrip()
    cell = next((c for c in rest if c.get("id") == "bootstrap"), None) or {
        "cell_type": "code",
        "execution_count": None,
        "id": "bootstrap",
        "outputs": [],
    }
    code = lines(bootstrap(url, stem))
    cell = cell | {"metadata": {"tags": ["bootstrap", "remove-cell"]}, "source": code}
    rest = [c for c in rest if c.get("id") != "bootstrap"]
    return notebook | {"cells": [first | {"source": lines(text)}, cell, *rest]}


def expected(root: Path, url: str) -> dict[Path, str]:
    """Every file that holds the address, with the text it should have."""
    config = root / "_config.yml"
    before = address(root)
    files = {config: SETTING.sub(rf"\g<1>{url}", config.read_text(encoding="utf-8"))}
    for path in (p for pattern in FOLLOWERS for p in sorted(root.glob(pattern))):
        text = path.read_text(encoding="utf-8")
        files[path] = text.replace(before, url).replace(PLACEHOLDER, url)
    for path in notebooks(root):
        files[path] = dump(addressed(read(path), url, path.stem))
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", help="https://github.com/NAME/REPOSITORY")
    parser.add_argument(
        "--check", action="store_true", help="change nothing, exit 1 if anything would"
    )
    args = parser.parse_args()
    url = (args.url or address()).rstrip("/").removesuffix(".git")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
        parser.error(f"{url!r} is not of the form https://github.com/NAME/REPOSITORY")
    stale = [p for p, t in expected(ROOT, url).items() if p.read_text(encoding="utf-8") != t]
    if not args.check:
        for path, text in expected(ROOT, url).items():
            write(path, text)
    for path in stale:
        print("out of step:" if args.check else "written:", path.relative_to(ROOT))
    return 1 if args.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
