"""Texts with a part held out, for tests/bench/perplexity.py. Nothing is downloaded.

The docstrings of Python's standard library, module by module: English on many subjects, the same
for everyone who has that version of Python. And chats that the built-in model has not seen.
"""

import ast
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from engine.builtin.corpus.documents import Document, documents

HELD_OUT = 12  # every twelfth module
_LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo"}
_UNSEEN_SEED = 1  # the built-in model learned those of 2026
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def library_texts() -> tuple[list[str], list[str]]:
    """Docstrings to learn from and others to be measured with, a text per module."""
    texts = list(_docstrings(Path(sysconfig.get_paths()["stdlib"])))
    learned = [text for index, text in enumerate(texts) if index % HELD_OUT]
    return learned, texts[::HELD_OUT]


def unseen_chats(number: int) -> list[Document]:
    """Documents of the built-in model's corpus, drawn anew: other sums, names and orders."""
    return list(documents(number, _UNSEEN_SEED))


def _docstrings(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.py")):
        if _LEFT_OUT.isdisjoint(path.relative_to(root).parts):
            with tokenize.open(path) as file:
                nodes = ast.walk(ast.parse(file.read()))
            found = [ast.get_docstring(node) for node in nodes if isinstance(node, _DOCUMENTED)]
            if any(found):
                yield "\n\n".join(text for text in found if text)
