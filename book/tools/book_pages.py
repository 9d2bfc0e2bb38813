"""What the book adds to Sphinx, as an extension that _config.yml names.

The words that fold a solution can be translated; the menu of languages knows where each page lies
in the other editions; lists of references say so to a screen reader; no script comes twice.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import translatable
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

SUMMARY = re.compile(r"(?<=<summary>).*?(?=</summary>)", re.S)


class raw(nodes.raw, translatable):  # so named, because writers choose their method by it
    """A piece of raw HTML that holds a summary, the words a reader clicks on."""

    def preserve_original_messages(self) -> None:
        self["summary"] = SUMMARY.search(self.astext())[0].strip()

    def extract_original_messages(self) -> list[str]:
        return [self["summary"]]

    def apply_translated_message(self, original: str, translated: str) -> None:
        text = SUMMARY.sub(lambda match: translated, self.astext())
        self.children = []
        self += nodes.Text(text)


class FoldedWords(SphinxTransform):
    """Makes summaries translatable: by itself, Sphinx leaves raw HTML alone."""

    default_priority = 5  # before Sphinx asks nodes for their messages, at 10

    def apply(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(nodes.raw)):
            if node.get("format") == "html" and SUMMARY.search(node.astext()):
                new = raw(node.rawsource, node.astext(), **node.attributes)
                new.source, new.line = node.source, node.line
                node.replace_self(new)


def editions(every: list[dict], here: str, page: str) -> list[dict]:
    """The editions as `page` (such as "book/preface") of edition `here` links to them.

    every: their `code` and `name`, as _config.yml lists them. The first lies at the top of the
    built book, each other in a folder of its code.
    """
    first = every[0]["code"]
    top = "../" * (page.count("/") + (here != first))
    return [
        edition
        | {
            "here": edition["code"] == here,
            "tag": edition["code"].replace("_", "-"),
            "href": top + ("" if edition["code"] == first else f"{edition['code']}/") + page,
        }
        for edition in every
    ]


def complete(app: Sphinx, pagename: str, template: str, context: dict, doctree: object) -> None:
    """Give a page its list of editions; mend its list of references and its list of scripts."""
    every = app.config.html_context.get("editions") or [{"code": "en", "name": "English"}]
    context["editions"] = editions(every, app.config.language, f"{pagename}.html")
    if "body" in context:
        entry = 'role="doc-biblioentry"'  # of no list, says ARIA 1.2; docutils puts it in one
        context["body"] = context["body"].replace(entry, 'role="listitem"')
    scripts = context["script_files"]  # an inline `const` that comes twice is an error
    bodies = [getattr(script, "attributes", {}).get("body") for script in scripts]
    once = [s for i, s in enumerate(scripts) if not bodies[i] or bodies[i] not in bodies[:i]]
    context["script_files"] = once


def setup(app: Sphinx) -> dict:
    app.add_transform(FoldedWords)
    app.connect("html-page-context", complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
