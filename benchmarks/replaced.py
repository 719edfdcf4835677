"""Other modules in the place of a model's own, for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn


@contextmanager
def replaced(model: nn.Module, others: Mapping[str, nn.Module]) -> Iterator[None]:
    """Within it, these stand in the place of the modules with these names. What hooks those have is not called."""
    own = {name: model.get_submodule(name) for name in others}
    try:
        _put(model, others)
        yield
    finally:
        _put(model, own)


def _put(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, module)
