"""From the start of a process to its first picture.

    python benchmarks/first_picture.py --model FOLDER [--device cuda] [--size 1024] [--steps 30] [--limit GB]

The engine loads a model from disk (from the system's cache of it, if it was read lately) and draws two pictures.
Printed is one line of JSON: seconds since the process began until its libraries were there, until the model was, until
the first picture was; seconds of the second; most memory of the device in use, and held by torch, in GB, since the
UNet was called first. As in a studio, it is compiled beside where that pays. ``--limit`` is all the memory
this process may take of it: what does not fit, the engine moves out of the way.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

import psutil

from illustrious.errors import EngineFailed, Unavailable
from illustrious.images import Admit, Command, Done, EngineOptions, Failed, Ready, Stop, Unloadable
from illustrious.types import ImageRequest


class Requests:
    """An engine's inbox: one of these each time it is told to ``go_on``, then the end.

    Not once the engine waits: while it compiles beside, it looks here without waiting, idle as it is.
    """

    def __init__(self, *requests: ImageRequest) -> None:
        admitted = (Admit(job_id=str(number), request=request) for number, request in enumerate(requests))
        self._commands: Iterator[Command] = chain(admitted, [Stop()])
        self._next: Command | None = None

    def go_on(self) -> None:
        self._next = next(self._commands)

    def get(self, wait: bool) -> Command | None:
        command, self._next = self._next, None
        return command


def first_picture(options: EngineOptions, request: ImageRequest) -> dict[str, Any]:
    """Raises ``Unavailable`` and ``EngineFailed``."""
    began = psutil.Process().create_time()
    import torch  # the heaviest of what an engine imports: part of what is measured

    from illustrious.images.diffusion import SDXLEngine

    if options.memory_limit is not None and torch.cuda.is_available():
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.memory_limit / total))
    taken = {"imported": time.time() - began}
    pictures = []
    another = request.model_copy(update={"seed": request.seed + 1})
    inbox = Requests(request, another)
    for event in SDXLEngine(options).run(inbox):
        match event:
            case Unloadable():
                raise Unavailable(event.reason)
            case Failed():
                raise EngineFailed(event.message)
            case Ready():
                taken["ready"] = time.time() - began
                inbox.go_on()
            case Done():
                pictures.append(time.time() - began)
                inbox.go_on()
    peak = held = None
    if torch.cuda.is_available():
        peak, held = torch.cuda.max_memory_allocated() / 1e9, torch.cuda.max_memory_reserved() / 1e9
    return {**taken, "first": pictures[0], "second": pictures[1] - pictures[0], "peak": peak, "held": held}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint; otherwise the starter model")
    parser.add_argument("--device", help="otherwise the best there is")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--limit", type=float, help="GB")
    given = parser.parse_args()
    limit = None if given.limit is None else int(given.limit * 1e9)
    options = EngineOptions(model=given.model, device=given.device, memory_limit=limit, preview_every=0)
    request = ImageRequest(
        prompt="a red apple",
        negative_prompt="blurry",
        width=given.size,
        height=given.size,
        steps=given.steps,
        guidance=5.0,
        seed=1,
    )
    print(json.dumps(first_picture(options, request)), flush=True)
    os._exit(0)  # a compiler may still be at work beside, in a thread that Python cannot end without trouble


if __name__ == "__main__":
    main()
