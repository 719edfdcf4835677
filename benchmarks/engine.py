"""Our engine beside diffusers' pipeline, on the same weights in the same process.

    python benchmarks/engine.py [--full] [--pairs 9] [--threads 2] [--only one,together,…]

Without ``--full``: the starter model, 20 steps, float32. With it: SDXL's full size with random weights,
256×256, 4 steps, bfloat16. Ours and theirs take turns, so that a busy machine is busy for both; printed are medians
with the interval that holds the middle half of the runs. Every picture has a prompt of its own, for ours are cached.
"""

import sys

if not __package__:
    sys.path[0] = sys.path[0].removesuffix("/benchmarks")  # this folder has a queue.py, which would hide Python's own

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import psutil
import torch
from benchmarks.full_size import full_size
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from illustrious.catalog.library import Library
from illustrious.images import Admit, Done, EngineOptions, Event, Failed, Step
from illustrious.images.diffusion.loop import Loop
from illustrious.images.diffusion.model import Model, load
from illustrious.images.diffusion.pace import TRIES
from illustrious.images.diffusion.placement import Memory, Placement
from illustrious.images.diffusion.returned import returned
from illustrious.images.diffusion.shelf import Shelf
from illustrious.images.diffusion.stock import Stock
from illustrious.system import forget_peak_memory, peak_memory
from illustrious.types import ImageRequest, Lora

NEGATIVE = "blurry"


class Bench:
    """One model as a loop of ours and as diffusers' pipeline."""

    def __init__(self, model: Model, size: int, steps: int, pairs: int, models: Path) -> None:
        first, second = model.text_encoders
        self.model = model
        self.size, self.steps, self.pairs = size, steps, pairs
        self.counts = (4, 8)
        self.pipeline = StableDiffusionXLPipeline(
            vae=model.vae,
            text_encoder=first.model,
            text_encoder_2=second.model,
            tokenizer=first.tokenizer,
            tokenizer_2=second.tokenizer,
            unet=model.unet,
            scheduler=model.sampler.scheduler(),
            add_watermarker=False,
        )
        self.pipeline.set_progress_bar_config(disable=True)
        memory = Memory(model.placement)
        stock = Stock(Library([models]), model, None, memory)
        self.loop = Loop(stock.model_of, stock.surroundings(1 << 22), memory, lambda model, picture: None)
        self._number = 0

    def request(self, **changes: Any) -> ImageRequest:
        self._number += 1
        values = {"steps": self.steps, "width": self.size, "height": self.size, "guidance": 5.0, **changes}
        prompt = f"a red apple, number {self._number}"
        return ImageRequest(**{"prompt": prompt, "negative_prompt": NEGATIVE, "seed": self._number, **values})

    def theirs(self, request: ImageRequest) -> None:
        self.pixels(request).save(io.BytesIO(), "PNG")

    def pixels(self, request: ImageRequest) -> Image.Image:
        image: Image.Image = self.pipeline(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            width=request.width,
            height=request.height,
            generator=torch.Generator().manual_seed(request.seed),
        ).images[0]
        return image

    def ours(self, *requests: ImageRequest) -> list[Event]:
        for number, request in enumerate(requests):
            self.loop.admit(Admit(job_id=str(number), request=request, caller=str(number)))
        return list(self.events())

    def events(self) -> Iterator[Event]:
        while not self.loop.is_idle:
            yield from self.loop.turn()


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def shown(values: Sequence[float], unit: str = "×") -> str:
    if len(values) == 1:
        return f"{values[0]:.3f} {unit}  (one run)"
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} {unit}  [{low:.3f} … {high:.3f}]"


def one(bench: Bench) -> None:
    """One picture, ours over theirs."""
    ratios, seconds = [], []
    for _ in range(bench.pairs):
        request = bench.request()
        theirs = timed(lambda request=request: bench.theirs(request))
        ours = timed(lambda request=request: bench.ours(request))
        ratios.append(ours / theirs)
        seconds.append(theirs)
    print(f"one picture, ours / diffusers            {shown(ratios)}   (diffusers {shown(seconds, 's')})")


def together(bench: Bench) -> None:
    """Several at once, over one after another; and how far pictures that share freely are from exact ones.

    How many may share a call, bit for bit or by memory, and how many are fastest, is found once for a device: before
    the clock runs. That takes a few calls for each number that is tried.
    """
    for exact in (True, False):
        for count in bench.counts:
            bench.ours(*(bench.request(exact=exact, steps=2 * TRIES) for _ in range(count)))  # finds what shares
            ratios = []
            for _ in range(max(1, bench.pairs // 3)):
                requests = [bench.request(exact=exact) for _ in range(count)]
                alone = sum(timed(lambda request=request: bench.ours(request)) for request in requests)
                requests = [bench.request(exact=exact) for _ in range(count)]
                ratios.append(alone / timed(lambda requests=requests: bench.ours(*requests)))
            kind = "exact" if exact else "not exact"
            print(f"{count} at once ({kind}), times as fast as one after another   {shown(ratios)}")
    verdicts = bench.loop.sharing.verdicts
    equal = sorted({key[2] for key, verdict in verdicts.items() if verdict})
    print(f"bit-equal together: {', '.join(map(str, equal)) or 'no number of pictures but one'}")
    if bench.model.size[0] < 256:  # of random weights at full size the distance would tell nothing, and take long
        distances(bench)


def distances(bench: Bench) -> None:
    requests = [bench.request(exact=False) for _ in range(4)]
    shared = pixels(bench.ours(*requests))
    exact = pixels(bench.ours(*(request.model_copy(update={"exact": True}) for request in requests)))
    difference = np.abs(shared - exact)
    error = float((difference.astype(float) ** 2).mean())
    psnr = "∞" if error == 0 else f"{10 * np.log10(255**2 / error):.1f}"
    share = float((difference > 0).mean())
    print(
        f"not exact against exact, 4 at once: p99.9 of the pixel difference {np.quantile(difference, 0.999):.0f}/255, "
        f"largest {difference.max()}/255, {share:.2%} differ, PSNR {psnr} dB"
    )


def pixels(events: Sequence[Event]) -> np.ndarray:
    results = sorted((event.job_id, event.results[0].image) for event in events if isinstance(event, Done))
    return np.stack([np.asarray(Image.open(io.BytesIO(file)), dtype=int) for _, file in results])


def waiting(bench: Bench) -> None:
    """A request of 8 steps behind four of 50, over the same alone."""
    ratios = []
    for _ in range(max(3, bench.pairs // 3)):
        short = bench.request(steps=8)
        unloaded = timed(lambda short=short: bench.ours(short))
        for number in range(4):
            bench.loop.admit(Admit(job_id=f"long {number}", request=bench.request(steps=50), caller="long"))
        events = bench.events()
        while not isinstance(next(events), Step):
            pass
        begin = time.perf_counter()
        bench.loop.admit(Admit(job_id="short", request=bench.request(steps=8), caller="short"))
        while not (isinstance(event := next(events), Done) and event.job_id == "short"):
            pass
        ratios.append((time.perf_counter() - begin) / unloaded)
        for number in range(4):
            list(bench.loop.cancel(f"long {number}"))
    print(f"8 steps behind four of 50, over unloaded  {shown(ratios)}")


def cancelling(bench: Bench) -> None:
    """From the command to the answer, in steps: the command is looked at between two of them."""
    shares = []
    for _ in range(max(3, bench.pairs // 3)):
        bench.loop.admit(Admit(job_id="long", request=bench.request(steps=50)))
        events = bench.events()
        times = []
        for _ in range(4):
            while not isinstance(next(events), Step):
                pass
            times.append(time.perf_counter())
        step = (times[-1] - times[0]) / 3
        asked = time.perf_counter()
        while not isinstance(next(events), Step):  # the step that was under way when it was asked for
            pass
        assert isinstance(next(bench.loop.cancel("long")), Failed)
        shares.append((time.perf_counter() - asked) / step)
    print(f"cancel, asked for right after a step began {shown(shares, 'steps')}")


def loras(bench: Bench, folder: Path) -> None:
    """What the first step takes longer when the LoRA changes: from disk, then from memory."""
    for name in ("one", "two"):
        write_lora(folder / f"{name}.safetensors", bench.model.unet)

    def first_step(name: str) -> float:
        begin = time.perf_counter()
        bench.loop.admit(Admit(job_id=name, request=bench.request(loras=(Lora(name=name),))))
        events = bench.events()
        while not isinstance(next(events), Step):
            pass
        taken = time.perf_counter() - begin
        list(bench.loop.cancel(name))
        return taken

    for title, names in (("first use, from disk", ["one", "two"]), ("switched, from memory", ["one", "two"] * 5)):
        more = []
        for name in names:
            changed = first_step(name)
            more.append((changed - statistics.median(first_step(name) for _ in range(3))) * 1000)
        print(f"LoRA {title}: {statistics.median(more):.1f} ms more to the first step, at most {max(more):.1f} ms")


def write_lora(path: Path, unet: nn.Module, rank: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Linear) and ".attn" in name:
            tensors[f"unet.{name}.lora_A.weight"] = torch.randn(rank, layer.in_features) * 0.01
            tensors[f"unet.{name}.lora_B.weight"] = torch.randn(layer.out_features, rank) * 0.01
    save_file(tensors, path)


def switching(bench: Bench) -> None:
    """To a model on disk, and to one that is kept warm."""
    memory = Memory(bench.model.placement)
    shelf = Shelf(bench.model.placement, memory)
    cold = timed(lambda: shelf.take(None, ()))
    warm = max(timed(lambda: shelf.take(None, ())) for _ in range(5))
    print(f"model switch: from disk {cold * 1000:.0f} ms, kept warm {warm * 1000:.2f} ms (starter)")


def memory(bench: Bench) -> None:
    """Most memory of the process during one picture, and what of it was there before."""
    for title, work in (("diffusers", bench.theirs), ("ours", bench.ours)):
        before = psutil.Process().memory_info().rss
        forget_peak_memory()
        work(bench.request())
        more = (peak_memory() - before) / 2**20
        print(f"peak memory, {title}: {peak_memory() / 2**20:.0f} MB, {more:.0f} MB more than at rest")


def starter() -> Model:
    return returned(load(EngineOptions(device="cpu")))


def main() -> None:
    parts = {"one": one, "together": together, "waiting": waiting, "cancelling": cancelling, "memory": memory}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--counts", default="4,8", help="pictures at once")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default=",".join([*parts, "loras", "switching"]))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    wanted = options.only.split(",")
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        if options.full:
            placement = Placement(torch.device("cpu"), "cpu", torch.bfloat16)
            bench = Bench(full_size(placement, (256, 256)), 256, 4, options.pairs, models)
        else:
            model = starter()
            bench = Bench(model, model.size[0], 20, options.pairs, models)
        bench.counts = tuple(map(int, options.counts.split(",")))
        model = bench.model
        print(f"{model.name}, {bench.size}×{bench.size}, {bench.steps} steps, {model.placement.dtype}, ", end="")
        print(f"{model.placement.device} with {options.threads} threads, torch {torch.__version__}")
        for work in (bench.theirs, bench.ours):  # warm-up
            work(bench.request())
        for name, part in parts.items():
            if name in wanted:
                part(bench)
        if "loras" in wanted:
            loras(bench, models / "loras")
        if "switching" in wanted:
            switching(bench)
        bench.loop.close()


if __name__ == "__main__":
    main()
