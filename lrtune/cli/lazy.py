"""What takes long to import, imported when a command asks something of it: `lrtune --help` needs none of it."""

import sys
from importlib.util import LazyLoader, find_spec, module_from_spec
from typing import TYPE_CHECKING, Any


def lazily(name: str) -> Any:
    """A module that is read when it is first asked for something; one that was read already, as it is."""
    if name in sys.modules:
        return sys.modules[name]
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(name)
    spec.loader = LazyLoader(spec.loader)
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    above, _, own = name.rpartition(".")
    setattr(sys.modules[above], own, module)  # as an import does
    return module


if TYPE_CHECKING:
    from lrtune import admin, client
    from lrtune.cli import terminal
else:
    admin, client, terminal = map(lazily, ("lrtune.admin", "lrtune.client", "lrtune.cli.terminal"))

__all__ = ["admin", "client", "lazily", "terminal"]
