"""What previews cost: ``python benchmarks/preview.py [--model FILE]``.

A preview is a linear map of the latents and a small WebP file. Its time is told beside that of a whole picture of the
same model in the same run, drawn without previews, with one preview every ``--every`` steps. Latents of 128×128 are
those of 1024×1024 pixels with an SDXL model.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from illustrious.images import Admit, Command, EngineOptions, Ready, Stop
from illustrious.images.diffusion import SDXLEngine
from illustrious.images.diffusion.model import load
from illustrious.images.diffusion.preview import Previewer, fit
from illustrious.images.diffusion.returned import returned
from illustrious.types import ImageRequest


def milliseconds(work: Callable[[], object], times: int) -> list[float]:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append((time.perf_counter() - start) * 1000)
    return taken


class Requests:
    """An engine's inbox with the same request so many times."""

    def __init__(self, request: ImageRequest, times: int) -> None:
        self._left = [Admit(job_id=str(number), request=request) for number in range(times)]

    def get(self, wait: bool) -> Command | None:
        return self._left.pop() if wait and self._left else Stop() if wait else None


def pictures(options: EngineOptions, steps: int, times: int) -> list[float]:
    """Milliseconds for each picture of the engine, without previews; the first, which warms up, is left out."""
    taken: list[float] = []
    start = 0.0
    engine = SDXLEngine(options.model_copy(update={"preview_every": 0}))
    for event in engine.run(Requests(ImageRequest(prompt="a red apple", steps=steps, seed=1), times + 1)):
        if isinstance(event, Ready):
            start = time.perf_counter()
        elif event.kind == "done":
            now = time.perf_counter()
            taken.append((now - start) * 1000)
            start = now
    return taken[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a checkpoint; otherwise the starter model")
    parser.add_argument("--device", help="otherwise the best there is")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--every", type=int, default=5, help="steps from one preview to the next")
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=3)
    given = parser.parse_args()
    options = EngineOptions(model=str(given.model) if given.model else None, device=given.device, threads=given.threads)
    model = returned(load(options))
    (fitting,) = milliseconds(lambda: fit(model.vae), 1)
    print(f"fitting the map                          {fitting:8.1f} ms, once for each VAE")
    previewer = Previewer(model.vae)
    latents = torch.randn(1, model.vae.config.latent_channels, 128, 128, device=model.vae.device)
    previewer.preview(latents)  # whatever the first one does only once
    native = model.size[1] // model.factor, model.size[0] // model.factor
    costs = {}
    for height, width in dict.fromkeys(((64, 64), (128, 128), native)):
        taken = milliseconds(
            lambda size=(height, width): previewer.preview(latents[..., : size[0], : size[1]]), given.times
        )
        costs[height, width] = statistics.median(taken)
        p95 = statistics.quantiles(taken, n=20)[-1]
        print(
            f"latents of {width:>3}×{height:<3}                      {costs[height, width]:8.2f} ms, p95 {p95:.2f} ms"
        )
    whole = statistics.median(pictures(options, given.steps, given.pictures))
    share = 100 * costs[native] * (given.steps // given.every) / whole
    print(f"a picture of {model.size[0]}×{model.size[1]} in {given.steps} steps   {whole:8.0f} ms")
    print(f"its previews, one every {given.every} steps       {share:8.2f} % of that")


if __name__ == "__main__":
    main()
