"""Editions of the book in other languages, from catalogs of translated sentences.

python book/tools/editions.py text           write what there is to translate: _build/gettext/
python book/tools/editions.py text zh_CN     the same, and bring book/locales/zh_CN up to date
python book/tools/editions.py build          build each further edition that _config.yml lists

The first edition is the book as it stands. Another one is the same pages with sentences replaced;
what is not translated yet appears as it stands in the first.
"""

import argparse
import re
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import yaml
from babel import Locale
from babel.messages import Catalog
from babel.messages.pofile import read_po, write_po

from house import ROOT, write

LOCALES = Path("book", "locales")


def catalog(template: Path, po: Path, language: str) -> tuple[str, int, int]:
    """The text of a language's catalog for one page; how many sentences it has, how many are done.

    What was translated stays; a sentence that changed keeps its old translation, marked `fuzzy`
    and not used until somebody has looked at it. Places are files without line numbers, so that a
    paragraph more does not change every entry.
    """
    new = read_po(BytesIO(template.read_bytes()))
    found = Catalog(locale=Locale.parse(language), project=new.project, charset="utf-8")
    if po.exists():
        found = read_po(BytesIO(po.read_bytes()), locale=language)
    found.update(new, keep_user_comments=True)
    for message in found:
        names = {Path(place).name: number for place, number in message.locations}
        message.locations = [(name, None) for name in names]
    out = BytesIO()
    write_po(out, found, width=100, include_previous=True)
    messages = [m for m in found if m.id]
    done = sum(bool(m.string) and not m.fuzzy for m in messages)
    return out.getvalue().decode(), len(messages), done


def update(language: str, root: Path = ROOT) -> None:
    """Bring book/locales/LANGUAGE up to date with _build/gettext, and say how far it is."""
    templates = root / "_build" / "gettext"
    for template in sorted(templates.rglob("*.pot")):
        name = template.relative_to(templates).with_suffix(".po")
        if name.name == "sphinx.po":
            continue
        po = root / LOCALES / language / "LC_MESSAGES" / name
        text, messages, done = catalog(template, po, language)
        stamp = re.compile(r'^"POT-Creation-Date:.*\n', re.M)  # alone, it is no news
        if not po.exists() or stamp.sub("", po.read_text("utf-8")) != stamp.sub("", text):
            write(po, text)
        print(f"{name}: {done} of {messages}")


def settings(root: Path, language: str, place: Path) -> dict:
    """_config.yml for one more edition, with its catalogs and its extension named by full paths."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    sphinx = config["sphinx"]
    sphinx["config"] |= {"language": language, "locale_dirs": [str(place / "locales")]}
    for name, folder in sphinx.get("local_extensions", {}).items():
        sphinx["local_extensions"][name] = str(root / folder)
    return config


def build(root: Path = ROOT) -> int:
    """Build the further editions into _build/html/CODE, warnings as errors; how many failed."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    failed = 0
    for edition in config["sphinx"]["config"]["html_context"]["editions"][1:]:
        code = edition["code"]
        place = root / "_build" / "editions" / code
        shutil.rmtree(place, ignore_errors=True)
        # Sphinx compiles catalogs where they lie: in a copy.
        shutil.copytree(root / LOCALES / code, place / "locales" / code)
        text = yaml.safe_dump(settings(root, code, place), allow_unicode=True)
        write(place / "_config.yml", text)
        flags = ["--all", "-W", "-n", "--keep-going", "--path-output", place]
        jupyter_book = Path(sys.executable).with_name("jupyter-book")
        done = subprocess.run(
            [jupyter_book, "build", *flags, "--config", place / "_config.yml", "."], cwd=root
        )
        failed += done.returncode != 0
        finished = root / "_build" / "html" / code
        shutil.rmtree(finished, ignore_errors=True)
        shutil.copytree(place / "_build" / "html", finished)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("text", "build"))
    parser.add_argument("language", nargs="?", help="a code such as zh_CN")
    args = parser.parse_args()
    if args.what == "build":
        return 1 if build() else 0
    flags = "--all -W -n --keep-going --builder custom --custom-builder gettext".split()
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    done = subprocess.run([jupyter_book, "build", *flags, "."], cwd=ROOT)
    if done.returncode == 0 and args.language:
        update(args.language)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
