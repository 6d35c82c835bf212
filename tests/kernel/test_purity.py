"""PLUG-25: the kernel knows no blockchain and can be read in one sitting."""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path

import pytest

import supervm.kernel

FOLDER = Path(supervm.kernel.__file__).parent
MODULES = sorted(FOLDER.glob("*.py"))
ALLOWED = {"attrs", "cattrs", "pluggy", "trio"} | sys.stdlib_module_names
FOREIGN_WORDS = {"block", "transaction", "mempool", "token", "gas", "consensus", "ledger", "wallet"}
CODE_LINES_MAX = 1300


def _code_lines(source: str) -> set[int]:
    """Lines that hold code: no blank lines, comments or docstrings."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        literal = node.value if isinstance(node, ast.Expr) else None
        if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
            docstrings.update(range(literal.lineno, (literal.end_lineno or literal.lineno) + 1))
    skipped = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


def _words(identifier: str) -> set[str]:
    parts = re.sub(r"([a-z])([A-Z])", r"\1_\2", identifier).lower().split("_")
    return {part.removesuffix("s") for part in parts} | set(parts)


def test_the_kernel_is_short_enough_to_read_in_one_sitting() -> None:
    total = sum(len(_code_lines(path.read_text())) for path in MODULES)
    assert 200 < total <= CODE_LINES_MAX


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_the_kernel_imports_nothing_of_the_chain(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            assert name.startswith("supervm.kernel") or name.split(".")[0] in ALLOWED, name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_the_kernel_names_nothing_of_the_chain(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    names |= {node.name for node in ast.walk(tree) if isinstance(node, definitions)}
    assert {name for name in names if _words(name) & FOREIGN_WORDS} == set()


def test_the_word_check_sees_words_inside_names() -> None:
    assert _words("open_blocks") & FOREIGN_WORDS
    assert _words("GasPolicy") & FOREIGN_WORDS
