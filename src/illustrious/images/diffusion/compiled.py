"""A UNet compiled beside the eager one, for pictures that need not be exact, on devices where that pays.

Compiling takes a minute for every shape. It is done in a thread beside, and until it is done the eager UNet answers:
nobody waits for a compiler, and where it fails nothing is lost but time.

What is compiled is a *twin*: other modules around the same parameters. The UNet itself wears LoRAs and seamless edges
for one call and not for the next; a graph would be traced while that changes, and keep what it saw. A twin wears
nothing, so it answers only for pictures that wear nothing.
"""

import inspect
import threading
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit

from illustrious.images.diffusion.placement import memory_ran_out
from illustrious.images.diffusion.shortcuts import Parts, changed, forward

ROWS = (8, 4, 2, 1)
"""For how many rows there are graphs; other numbers are put together from these."""

FAILURES = (
    FailOnRecompileLimitHit,  # a shape that a graph was not made for
    RuntimeError,  # torch's own, and those of its compilers
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
)
"""What a compiler or its graph may end with: no Triton, no C++, a version that is too old, a bug."""


def graph(parts: Parts, backend: str = "inductor") -> Parts:
    """Compiled by torch, for the shape it is called with first; with any other it raises, and compiles nothing.

    Torch 2.11 cannot be told to raise: it would compile anew. It is not called with any other.
    """
    known = inspect.signature(torch.compile).parameters
    once: dict[str, Any] = {"recompile_limit": 1} if "recompile_limit" in known else {}
    compiled: Parts = torch.compile(
        _with_code_of_its_own(parts), backend=backend, fullgraph=True, dynamic=False, **once
    )
    return compiled


def _with_code_of_its_own(parts: Parts) -> Parts:
    """Torch keeps graphs, and counts them, by the code of what was compiled: so each has one that no other shares."""

    def called(*given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        return parts(*given, **named)

    return FunctionType(called.__code__.replace(), globals(), closure=called.__closure__)


class CompiledUNet:
    """``shortcuts.forward`` of ``unet``, by a graph for every shape that has one by now. ``problem`` is why there
    is none, and will be none."""

    def __init__(self, unet: Any, compiler: Callable[[Parts], Parts] = graph) -> None:
        self._unet = unet
        self._compiler = compiler
        self._graphs: dict[Hashable, Parts] = {}
        self._under_way: threading.Thread | None = None
        self.problem: str | None = None
        self._is_told = False
        self._is_retired = False

    def __call__(self, **given: Any) -> tuple[Tensor, Tensor]:
        rows = len(given["sample"])
        answers = []
        begin = 0
        while begin < rows:
            count = next(count for count in ROWS if count <= rows - begin)
            answers.append(self._answered({name: _rows(value, begin, count) for name, value in given.items()}))
            begin += count
        answer, deep = (torch.cat(parts) for parts in zip(*answers, strict=True))
        return answer, deep

    def prepare(self, given: dict[str, Any]) -> None:
        """Begin to compile for calls like this one, and for those that leave its deep blocks out."""
        self._begin(given, self._compile_both)

    @property
    def shapes(self) -> int:
        """How many have a graph."""
        return len(self._graphs)

    def news(self) -> list[str]:
        """What its user should know, once."""
        if self.problem is None or self._is_told:
            return []
        self._is_told = True
        return [self.problem]

    def retire(self) -> None:
        """From now on the eager UNet answers."""
        self._is_retired = True
        self._graphs = {}

    @property
    def is_compiling(self) -> bool:
        return self._under_way is not None and self._under_way.is_alive()

    def wait(self, seconds: float | None = None) -> None:
        """Until nothing is compiled any more, or for so long."""
        if self._under_way is not None:
            self._under_way.join(seconds)

    def _answered(self, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        compiled = self._graphs.get(_shape(given))
        if compiled is not None:
            try:
                return compiled(**given)
            except FAILURES as error:
                if isinstance(error, RuntimeError) and memory_ran_out(error):
                    raise
                self._failed(error)
        if self.may_draw and not self.is_compiling:
            self._begin(given, self._compile)  # one at a time; whichever shape is asked for next is the next
        return forward(self._unet, **given)

    @property
    def may_draw(self) -> bool:
        return not self._is_retired and self.problem is None

    def _begin(self, given: dict[str, Any], work: Callable[[dict[str, Any]], object]) -> None:
        with torch.inference_mode():  # a graph is for such tensors alone
            blank = {name: _blank(value) for name, value in given.items()}
        # A daemon: whoever stops the engine does not wait for a compiler.
        self._under_way = threading.Thread(target=work, args=(blank,), name="compile", daemon=True)
        self._under_way.start()

    def _compile(self, blank: dict[str, Any]) -> Tensor | None:
        """What the deep blocks answered; ``None``: nothing was compiled."""
        try:
            compiled = self._compiler(partial(forward, twin(self._unet)))
            with torch.inference_mode():
                _, deep = compiled(**blank)
        except FAILURES as error:
            self._failed(error)
            return None
        if not self.may_draw:
            return None
        self._graphs[_shape(blank)] = compiled
        return deep

    def _compile_both(self, blank: dict[str, Any]) -> None:
        deep = self._compile(blank)
        if deep is not None:
            self._compile({**blank, "deep": deep})

    def _failed(self, error: Exception) -> None:
        why = str(error).strip().split("\n")[0][:200]
        self.problem = (
            f"The model could not be compiled ({type(error).__name__}: {why}), so it draws as it is, which takes "
            "longer and changes nothing else. Update PyTorch, or install what is missing."
        )
        self._graphs = {}


def twin(unet: Any) -> Any:
    """Other modules of the same kind around the same parameters: whatever moves or changes these does it for both."""
    with torch.device("meta"):
        other = type(unet).from_config(unet.config)
    for own, its in zip(unet.modules(), other.modules(), strict=True):
        vars(its).update(_parameters=own._parameters, _buffers=own._buffers)
    return other.eval()


def _rows(value: Any, begin: int, count: int) -> Any:
    return changed(value, lambda tensor: tensor[begin : begin + count])


def _blank(value: Any) -> Any:
    """A tensor of the same kind, which nobody else writes to."""
    return changed(value, torch.zeros_like)


def _shape(given: dict[str, Any]) -> Hashable:
    return tuple((name, tuple(_shapes(value))) for name, value in given.items())


def _shapes(value: Any) -> Iterator[torch.Size]:
    shapes: list[torch.Size] = []

    def seen(tensor: Tensor) -> Tensor:
        shapes.append(tensor.shape)
        return tensor

    changed(value, seen)
    yield from shapes
