"""What the book stands on: nothing undeclared, nothing unused, licences and flaws looked up."""

import ast
import http.server
import importlib.metadata
import json
import re
import sys
import threading
import tomllib
from email.message import Message

import pytest
from packaging.requirements import Requirement

import audit
import freshness
import house

ROOT = house.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = {
    audit.normal(Requirement(text).name)
    for texts in (PROJECT["dependencies"], *EXTRAS.values())
    for text in texts
}
PROVIDED = importlib.metadata.packages_distributions()
CODE = [
    p
    for room in "cifar_utils apps studies benchmarks tests book/tools".split()
    for p in (ROOT / room).rglob("*.py")
] + [ROOT / "conftest.py"]
# Declared, and needed without an import: who needs it.
RUN = {
    "jupyter-book": "make book",
    "jupyterlab": "make lab",
    "ipykernel": "every notebook",
    "nbval": "pytest --nbval-lax",
    "pytest-xdist": "make test",
    "ruff": "the style",
    "onnxscript": "torch.onnx.export",
    "python-multipart": "starlette's forms",
}


def imports_of(code: str) -> set[str]:
    """Top names of what some code imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


def strangers(code: str, own: set[str]) -> set[str]:
    """Imports that no declared dependency provides."""
    return {
        name
        for name in imports_of(code) - own - set(sys.stdlib_module_names)
        if not {audit.normal(d) for d in PROVIDED.get(name, [])} & DECLARED
    }


OWN = {p.stem for p in CODE} | {"cifar_utils", "apps", "benchmarks"}
OWN.add("google")  # google.colab, where it is


def test_every_import_is_declared():
    texts = {p.name: p.read_text(encoding="utf-8") for p in CODE}
    for path in house.notebooks():
        texts[path.name] = "\n".join(freshness.code_of(house.read(path)))
    found = {name: strangers(text, OWN) for name, text in texts.items()}
    assert not {name: names for name, names in found.items() if names}
    assert strangers("import os, torch, scipy.stats, data\nimport jinja2", {"data"}) == {"jinja2"}


def unused(declared: set[str], texts: list[str]) -> set[str]:
    """Declared dependencies that nothing imports, those aside that run by themselves."""
    # By pattern: some imports stand in code that is handed to another process.
    names = {n for text in texts for n in re.findall(r"^\s*(?:import|from) (\w+)", text, re.M)}
    names |= {n for text in texts for n in re.findall(r"importorskip\(\"(\w+)", text)}
    used = {audit.normal(d) for name in names for d in PROVIDED.get(name, [])}
    return declared - used - set(RUN)


def test_every_dependency_is_used():
    texts = [p.read_text(encoding="utf-8") for p in CODE]
    texts += [code for path in house.notebooks() for code in freshness.code_of(house.read(path))]
    assert not unused(DECLARED, texts)
    assert unused({"torch", "pyyaml", "polars"}, ["import torch", "from yaml import x"]) == {
        "polars"
    }
    assert set(RUN) <= DECLARED


# --- The audit ------------------------------------------------------------------------------------

WANTED = [("one", "1.0"), ("two", "2.0")]


class Database(http.server.BaseHTTPRequestHandler):
    """Speaks as OSV does; `server.known` says what it knows, `server.status` how it answers."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        found = [self.server.known.get((q["package"]["name"], q["version"])) for q in asked]
        body = json.dumps(
            {"results": [{"vulns": [{"id": i} for i in f]} if f else {} for f in found]}
        )
        body = self.server.body or body
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def database():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Database)
    server.known, server.status, server.body = {("two", "2.0"): ["GHSA-1", "PYSEC-2"]}, 200, ""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}/"
    yield server
    server.shutdown()


def test_what_is_known_against_a_pin_is_found(database):
    assert audit.vulnerabilities(WANTED, database.url) == {"two 2.0": ["GHSA-1", "PYSEC-2"]}
    assert audit.vulnerabilities([("two", "2.1")], database.url) == {}


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, ""), (200, "[]"), (200, "<html>"), (200, '{"results": [{}]}'), (200, '{"results": 7}')],
)
def test_no_answer_is_not_taken_for_a_clean_one(database, status, body):
    database.status, database.body = status, body
    with pytest.raises(audit.NotReached):
        audit.vulnerabilities(WANTED, database.url)
    database.shutdown()
    database.server_close()
    with pytest.raises(audit.NotReached):
        audit.vulnerabilities(WANTED, database.url)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ([("License-Expression", "MIT"), ("License", "other")], "MIT"),
        ([("Classifier", "License :: OSI Approved :: MIT License")], "MIT"),
        ([("Classifier", "License :: OSI Approved"), ("License", "BSD-3-Clause")], "BSD-3-Clause"),
        ([("License", "Copyright " + "x" * 100)], "not said"),
        ([("Classifier", "Topic :: License keeping")], "not said"),
    ],
)
def test_a_licence_is_what_the_package_says(headers, said):
    meta = Message()
    for name, value in headers:
        meta[name] = value
    assert audit.licence(meta) == said


def test_the_record_is_of_today_s_pins():
    wanted = audit.pins((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    record = house.read(audit.RECORD)
    names = {name for name, _ in wanted}
    assert record["pins"] == len(wanted) and record["licences"].keys() == names, "make audit"
    lines = "a==1 ; python_version < '4'\n    # via b\nc==2+cpu\n-e ."
    assert audit.pins(lines) == [("a", "1"), ("c", "2+cpu")]
