"""What calls of the UNet take, and what follows from it: how many pictures share one, and when those who wait have one.

Whether a call of four pictures takes as long as one or as long as four is a matter of the device, the size and the
model; nothing tells beforehand. So every number is tried a few times and what it took is remembered.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

TRIES = 3
"""Calls of a number of pictures, after one to warm up, before it is judged."""

KEPT = 6
"""Of the last calls the mean counts: some leave out work (``shortcuts.py``), and any may be held up."""

STALE = 200
"""Calls of one kind after which what was measured before is measured again: a device may have been busy."""

GAIN = 1.1
"""How many times as fast pictures together must be as one after another. For less it is better that one is done
first."""

DELAY = 1.25
"""How many times as long a picture's call may take for the sake of others that have much more left."""

SHARE = 0.5
"""Seconds for those who wait to one second for the picture with the fewest turns left."""

KINDS = 200
"""Kinds of calls that are remembered."""

_Moment = float | torch.Event


@dataclass(frozen=True)
class _Call:
    kind: Hashable
    pictures: int
    theirs: bool | None
    begin: _Moment
    end: _Moment

    @property
    def seconds(self) -> float:
        """Waits for the device."""
        if isinstance(self.begin, torch.Event) and isinstance(self.end, torch.Event):
            self.end.synchronize()
            return float(self.begin.elapsed_time(self.end)) / 1000
        assert isinstance(self.begin, float) and isinstance(self.end, float)
        return self.end - self.begin


@dataclass
class _Kind:
    """``calls`` so far, and what those of each number of pictures took."""

    calls: int = 0
    measured: "dict[int, _Measured]" = field(default_factory=dict)


@dataclass
class _Measured:
    """Seconds of the last calls of one kind and number, and when, in calls of that kind, the last one was."""

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    tries: int = 0
    last: int = 0


class Pace:
    """Calls of one *kind* take equally long for equally many pictures: those of a group and a shape.

    A device that computes beside the program is let run one call ahead: enough to keep it busy, and little enough that
    a picture which is cancelled stops soon.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._clock = clock
        self._ahead = 0 if device.type == "cpu" else 1
        self._under_way: deque[_Call] = deque()
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()
        self._owed = 0.0
        self._last_turn = 0.0

    @contextmanager
    def timing(self, kind: Hashable, pictures: int, theirs: bool | None) -> Iterator[None]:
        """Around a call of so many pictures. ``theirs``: it is the turn of the one who has waited longest, or of others
        while that one waits; ``None``: nobody is kept waiting. One that raises teaches nothing."""
        begin = self._now()
        yield
        self._under_way.append(_Call(kind, pictures, theirs, begin, self._now()))
        while len(self._under_way) > self._ahead:
            self._learn(self._under_way.popleft())

    @property
    def is_due(self) -> bool:
        """It is the turn of the one who has waited longest: as much time is owed to those who wait as their last turn
        took. What is under way counts with what such calls took before."""
        owed = self._owed
        for call in self._under_way:
            seconds = self._seconds(call.kind, call.pictures)
            if seconds is None and call.theirs:
                return False
            owed += _owing(call.theirs, seconds or 0.0)
        return owed >= self._last_turn

    def together(self, kind: Hashable, near: int, others: int) -> int:
        """How many pictures the next call should hold: of ``near``, which have about as much left as the first of them,
        as many as are fastest; of ``others``, which have more, as many as hardly delay them."""
        fastest = self._fastest(kind, near)
        alone = self._seconds(kind, fastest)
        if alone is None:
            return fastest
        most = fastest
        for count in _tried(near + others):
            if count > fastest:
                seconds = self._seconds(kind, count)
                if seconds is None:
                    return count
                if seconds > DELAY * alone:
                    break
                most = count
        return most

    def _fastest(self, kind: Hashable, most: int) -> int:
        """The number up to ``most`` with the most pictures a second, or one that has not been tried."""
        rates: dict[int, float] = {}
        for count in _tried(most):
            seconds = self._seconds(kind, count)
            if seconds is None:
                return count
            rates[count] = count / max(seconds, 1e-9)
            if rates[count] < max(rates.values()):
                break
        fastest = max(rates, key=lambda count: rates[count])
        return fastest if rates[fastest] >= GAIN * rates[1] else 1

    def _seconds(self, kind: Hashable, pictures: int) -> float | None:
        known = self._kinds.get(kind, _Kind())
        measured = known.measured.get(pictures)
        if measured is None or measured.tries <= TRIES or known.calls - measured.last > STALE:
            return None
        return sum(measured.seconds) / len(measured.seconds)

    def _learn(self, call: _Call) -> None:
        known = self._kinds.setdefault(call.kind, _Kind())
        self._kinds.move_to_end(call.kind)
        while len(self._kinds) > KINDS:
            self._kinds.popitem(last=False)
        known.calls += 1
        measured = known.measured.get(call.pictures)
        if measured is None or known.calls - measured.last > STALE:
            measured = known.measured[call.pictures] = _Measured()
        measured.last = known.calls
        measured.tries += 1
        if measured.tries > 1:  # the first of a shape also makes what later ones find made
            measured.seconds.append(call.seconds)
        self._owed += _owing(call.theirs, call.seconds)
        if call.theirs:
            self._last_turn = call.seconds

    def _now(self) -> _Moment:
        if self._device.type == "cpu":
            return self._clock()
        event = torch.Event(self._device, enable_timing=True)
        # A process may have several devices, and the one it draws on need not be the current one.
        event.record(torch.accelerator.current_stream(self._device))
        return event


def _owing(theirs: bool | None, seconds: float) -> float:
    """What a call adds to the time owed to those who wait."""
    if theirs is None:
        return 0.0
    return -seconds if theirs else SHARE * seconds


def _tried(most: int) -> list[int]:
    """The numbers that are tried.

    >>> _tried(6), _tried(8)
    ([1, 2, 4, 6], [1, 2, 4, 8])
    """
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]
