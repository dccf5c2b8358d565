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


LOADED = """
import sys
from lrtune.cli.commands import app
try:
    app(sys.argv[1:])
except SystemExit:
    from importlib.util import _LazyModule
    loaded = [name for name, one in sys.modules.items() if not isinstance(one, _LazyModule)]
    print("\\n" + " ".join(loaded))
"""


def loaded_by(*arguments: str) -> set[str]:
    """The modules that a command has read when it ends."""
    done = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("arguments", "most", "without"),
    [
        (["--version"], 260, {"pydantic", "httpx", "rich.console", "lrtune.client", "lrtune.wire.job"}),
        (["--help"], 420, {"pydantic", "httpx", "lrtune.client", "lrtune.wire.job", "lrtune.cli.terminal"}),
        (["list", "--help"], 560, {"httpx", "lrtune.client", "lrtune.wire.job", "lrtune.cli.terminal"}),
        # what a command needs that asks a server: the client, and nothing of other commands
        (
            ["list"],
            620,
            {
                "lrtune.export",
                "lrtune.runner",
                "lrtune.moving.flat",
                "lrtune.report.document",
                "lrtune.cli.watch",
                "numpy",
            },
        ),
    ],
)
def test_a_command_reads_what_it_needs_and_so_starts_at_once(
    arguments: list[str], most: int, without: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRTUNE_URL", "http://127.0.0.1:9")  # nobody
    monkeypatch.setenv("LRTUNE_API_KEY", "some-key-of-a-test")
    found = loaded_by(*arguments)
    assert found & without == set()
    assert len(found) < most


def test_the_formats_that_the_command_line_names_are_those_that_there_are():
    from lrtune.cli import answers
    from lrtune.export import FORMATS

    assert answers.FORMATS == FORMATS


def test_the_door_brings_no_torch():
    assert "torch" not in pulled_in("app.main")


def test_the_wheel_asks_for_the_client_and_no_more():
    plain = {line.partition(">")[0] for line in requires("lrtune") or [] if "extra ==" not in line}
    assert plain == {"pydantic", "httpx", "typer", "rich"}
