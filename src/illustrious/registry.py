"""Named implementations of a protocol, found by looking: one file in the protocol's folder, or an entry point.

A class is marked where it is defined::

    @registered("echo")
    class EchoChat: ...

and found by ``implementations("illustrious.chat")``. Nothing is kept in a global table. A plug-in in another
distribution advertises its class under an entry point group named after the folder (``illustrious.chat``).
"""

import importlib
import pkgutil
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from illustrious.errors import CannotStart

T = TypeVar("T", bound=type)


def registered(name: str) -> Callable[[T], T]:
    """Mark a class as the implementation called ``name`` of the protocol its folder holds."""

    def mark(cls: T) -> T:
        cls.registered_name = name  # type: ignore[attr-defined]
        return cls

    return mark


def implementations(package: str) -> dict[str, type[Any]]:
    """All marked classes of a package's direct modules, and those of its entry point group, by name."""
    found: dict[str, type[Any]] = {}
    folder = importlib.import_module(package)
    for module_info in pkgutil.iter_modules(folder.__path__):
        module = importlib.import_module(f"{package}.{module_info.name}")
        for value in vars(module).values():
            at_home = getattr(value, "__module__", "").startswith(module.__name__)  # not merely imported there
            if isinstance(value, type) and "registered_name" in vars(value) and at_home:
                found[value.registered_name] = value  # type: ignore[attr-defined]
    for entry in entry_points(group=package):
        found[entry.name] = entry.load()
    return found


def find(package: str, name: str) -> type[Any]:
    """The implementation called ``name``. Raises :class:`CannotStart` naming those that exist."""
    known = implementations(package)
    if name not in known:
        kind = package.rpartition(".")[2]
        raise CannotStart(f"There is no {kind} backend {name!r}; choose one of: {', '.join(sorted(known))}.")
    return known[name]
