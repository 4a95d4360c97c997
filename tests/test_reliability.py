"""docs/explanation/reliability.md: the table of faults and the tests are one."""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import ROOT


def marked() -> set[str]:
    """Names of the tests that are marked ``faults``, one by one or as a module."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text())
        whole = any(ast.unparse(node) == "pytestmark = pytest.mark.faults" for node in tree.body)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                own = "pytest.mark.faults" in map(ast.unparse, node.decorator_list)
                found |= {node.name} if whole or own else set()
    return found


@pytest.mark.faults
def test_the_table_names_every_test_of_a_fault_and_no_other() -> None:
    page = (ROOT / "docs" / "explanation" / "reliability.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert set(re.findall(r"`(test_\w+)`", "\n".join(rows))) == marked()
