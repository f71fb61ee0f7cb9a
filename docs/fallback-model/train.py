"""Trains the fallback embedding model: `python train.py FILE`. It needs the extra `fasttext`.

It reads text that comes with every Python: docstrings and comments of the standard library, and the language reference
that `help()` shows. All of it is English that may be redistributed under the PSF licence. With one thread, the same
Python and fastText produce the same file. The shipped one, `english.bin`, was made with Python 3.11.7 and
fasttext-community 0.11.9.
"""

from __future__ import annotations

import ast
import io
import sys
import sysconfig
import tempfile
import textwrap
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import fasttext

from tokenlane.worker.embeddings.fallback_model import words_of

DIMENSIONS = 32
_EXCLUDED = {"site-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__"}
_SHORTEST_WORDS = 4
"""A shorter paragraph is seldom a sentence."""


def train(target: Path, lines: Iterable[str]) -> None:
    """Train a model on these lines, whose words are separated by blanks, and write it to `target`."""
    with tempfile.TemporaryDirectory(prefix="tokenlane-") as folder:
        text = Path(folder) / "text"
        with text.open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(f"{line}\n")
        model = fasttext.train_unsupervised(
            str(text),
            model="skipgram",
            dim=DIMENSIONS,
            minCount=18,
            minn=3,
            maxn=5,
            bucket=2000,
            epoch=15,
            ws=5,
            t=1e-4,
            thread=1,
            verbose=0,
        )
        model.save_model(str(target))


def python_text() -> Iterator[str]:
    """The paragraphs of this Python's docstrings, comments and reference, each once and on one line."""
    seen = set[str]()
    for paragraph in _paragraphs():
        words = list(words_of(paragraph))
        line = " ".join(words)
        if len(words) >= _SHORTEST_WORDS and line not in seen:
            seen.add(line)
            yield line


def _paragraphs() -> Iterator[str]:
    for _, topic in sorted(topics.items()):
        yield from topic.split("\n\n")
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if not _EXCLUDED & set(path.relative_to(library).parts):
            yield from _paragraphs_in(path)


def _paragraphs_in(path: Path) -> Iterator[str]:
    """The paragraphs of a module's docstrings and comments."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (UnicodeDecodeError, SyntaxError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from textwrap.dedent(ast.get_docstring(node) or "").split("\n\n")
    comment: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comment.append(token.string.lstrip("#! "))
        elif token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            yield " ".join(comment)
            comment = []


if __name__ == "__main__":
    train(Path(sys.argv[1]), python_text())
