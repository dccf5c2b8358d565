"""docs/security.md names the test that guards against each threat; a test that is renamed or gone is missed here."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [line for line in (ROOT / "docs/security.md").read_text().splitlines() if line.startswith("| ")][2:]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_every_threat_names_tests_that_are_there(row: str) -> None:
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", row.split("|")[3])
    assert named
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text())
        assert test in {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}, f"{file}::{test}"
