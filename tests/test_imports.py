"""What each ring pulls in when imported into a fresh interpreter. The source itself is held by import-linter."""

import subprocess
import sys
from importlib.metadata import requires

import pytest

WITH_PYDANTIC = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
LOOK = """
import sys
before = set(sys.modules)
import {module}
print(*{{name.partition(".")[0] for name in set(sys.modules) - before}})
"""


def pulled_in(module: str) -> set[str]:
    """The top-level packages outside the standard library that importing a module brings along."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK.format(module=module)], capture_output=True, text=True, check=True
    )
    third = set(done.stdout.split()) - set(sys.stdlib_module_names) - {module.partition(".")[0]}
    return {name for name in third if not name.startswith("_")}  # _sysconfigdata_... is the interpreter's own


@pytest.mark.parametrize("module", ["lrtune.schedules", "lrtune.optimizers", "lrtune.space", "lrtune.errors"])
def test_the_plain_ring_needs_the_standard_library_only(module):
    assert pulled_in(module) == set()


@pytest.mark.parametrize(
    "module",
    ["lrtune", "lrtune.wire.job", "lrtune.wire.results", "lrtune.task", "lrtune.wire.tasks", "lrtune.analysis.report"],
)
def test_the_wire_ring_needs_pydantic_and_nothing_else(module):
    assert pulled_in(module) <= WITH_PYDANTIC


def test_the_client_brings_nothing_of_the_server():
    assert not pulled_in("lrtune.client") & {"sqlalchemy", "optuna", "numpy", "torch", "fastapi", "app", "worker"}


def test_the_door_brings_no_torch():
    assert "torch" not in pulled_in("app.main")


def test_the_wheel_asks_for_the_client_and_no_more():
    plain = {line.partition(">")[0] for line in requires("lrtune") or [] if "extra ==" not in line}
    assert plain == {"pydantic", "httpx", "typer", "rich"}
