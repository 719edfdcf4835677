"""What a generator returns, for who does not ask how far it is."""

from collections.abc import Generator
from typing import TypeVar

Value = TypeVar("Value")


def returned(work: Generator[object, None, Value]) -> Value:
    """Taken to its end at once."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            value: Value = end.value
            return value
