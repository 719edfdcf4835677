"""From the start of a process to its first picture.

    python benchmarks/first_picture.py --model FOLDER [--device cuda] [--size 1024] [--steps 30] [--limit GB]

The engine loads a model from disk (from the system's cache of it, if it was read lately) and draws two pictures.
Printed is one line of JSON: seconds since the process began until its libraries were there, until the model was, until
the first picture was; seconds of the second; most memory of the device in use, in GB. ``--limit`` is all the memory
this process may take of it: what does not fit, the engine moves out of the way.
"""

import argparse
import json
import time
from typing import Any

import psutil

from illustrious.errors import EngineFailed, Unavailable
from illustrious.images import Admit, Command, Done, EngineOptions, Failed, Ready, Stop, Unloadable
from illustrious.types import ImageRequest


class Requests:
    """An engine's inbox: each of these once it waits, then the end."""

    def __init__(self, *requests: ImageRequest) -> None:
        self._commands: list[Command] = [
            Admit(job_id=str(number), request=request) for number, request in enumerate(requests)
        ]

    def get(self, wait: bool) -> Command | None:
        if not wait:
            return None
        return self._commands.pop(0) if self._commands else Stop()


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
    for event in SDXLEngine(options).run(Requests(request, another)):
        match event:
            case Unloadable():
                raise Unavailable(event.reason)
            case Failed():
                raise EngineFailed(event.message)
            case Ready():
                taken["ready"] = time.time() - began
            case Done():
                pictures.append(time.time() - began)
    peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
    return {**taken, "first": pictures[0], "second": pictures[1] - pictures[0], "peak": peak}


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
    print(json.dumps(first_picture(options, request)))


if __name__ == "__main__":
    main()
