"""Things that take long to load, kept in memory while there is room: the least recently used goes first."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Up to ``capacity`` bytes, or whatever ``size`` measures them in; the newest stays even if it is larger."""

    def __init__(self, capacity: int, size: Callable[[Value], int]) -> None:
        self._capacity = capacity
        self._size = size
        self._kept: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], Value]) -> Value:
        """The value kept under the key, else the one that ``load`` brings."""
        if key not in self._kept:
            value = load()
            self._kept[key] = value, self._size(value)
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and self.bytes > self._capacity:
            self._kept.popitem(last=False)
        return self._kept[key][0]

    def clear(self) -> None:
        self._kept.clear()

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self._kept.values())
