"""What a GPU makes of SDXL, in one run: its own ceilings, diffusers' pipeline, our loop, and every way to be faster.

    python benchmarks/gpu.py [--budget 480] [--out FOLDER] [--cache FOLDER] [--only fp8,blocks,…] [--max-autotune]
    python benchmarks/gpu.py --device cpu --tiny --backend eager      # every path that needs no GPU, in a minute

It needs no network and no checkpoint: SDXL at its full size with random weights takes as long as with trained ones. All
models are in bfloat16 where the card has it. Times are medians by the device's events after warm-up, with the fastest
and the slowest; those of pictures end with pixels in main memory. Rows are printed as they come and written to
``gpu.json`` and ``gpu.md`` in ``--out``, with the card's name in each. What fails is a row with its message; what no
longer fits into ``--budget`` seconds is a row that says so. ``--cache`` is where compiled code is kept: with the same
folder a second run compiles next to nothing. On a large card all of it takes some fifteen minutes, most of them for
compilers; what is left for a second run is printed last, as ``--only`` wants it. Give that one another ``--out``.

On a machine without an index to install from, take along wheels of what its Python lacks; beside torch, transformers,
accelerate, peft, safetensors, pillow and psutil these are diffusers, pydantic, pydantic-core, annotated-types and
typing-inspection:

    python -m pip install --no-deps --no-index --target site wheels/*.whl
    PYTHONPATH=site:src python benchmarks/gpu.py --out results

What the server adds to the engine is measured by ``overhead.py``.
"""

import sys

if not __package__:
    sys.path[0] = sys.path[0].removesuffix("/benchmarks")  # as a file: the folder beside it is a package

import argparse
import io
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from benchmarks.ceilings import Ceilings
from benchmarks.clock import Clock, Spread
from benchmarks.engine import Bench, write_lora
from benchmarks.first_picture import __file__ as first_picture
from benchmarks.float8 import float8
from benchmarks.flops import picture_flops
from benchmarks.full_size import SDXL, TINY, Shapes, full_size
from benchmarks.levers import (
    DECODING_LEVERS,
    STEP_LEVERS,
    Compiler,
    Lever,
    Subject,
    channels_last,
    compiled,
    compiled_blocks,
    compiled_decoding,
    fused,
    together,
)
from benchmarks.report import Report, Row
from PIL import Image

from illustrious.errors import EngineFailed
from illustrious.images import Done, Failed
from illustrious.images.diffusion.adapters import WeightedLora
from illustrious.images.diffusion.compiled import CompiledUNet
from illustrious.images.diffusion.decode import png
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.placement import Placement, place
from illustrious.images.diffusion.preview import Previewer
from illustrious.types import ImageRequest

STEP, DECODING = "UNet, one step of both halves", "VAE, one decoding"
"""What levers are compared with, unless they say otherwise."""

NEEDED = ("parts", "bf16 matrix product")
"""Trials that others compare themselves with: they take seconds, and are never left out."""

Change = Callable[[Model], AbstractContextManager[None]]


@dataclass(frozen=True)
class Extent:
    """How much is measured: ``edge`` of the matrices, ``copied`` bytes, ``times`` a call and a picture is timed."""

    shapes: Shapes
    size: int
    steps: int
    edge: int
    copied: int
    calls: int
    pictures: int
    batches: tuple[int, ...]


WHOLE = Extent(SDXL, 1024, 30, 8192, 2**30, calls=10, pictures=3, batches=(1, 2, 4, 8))
SMALL = Extent(TINY, 64, 2, 128, 2**20, calls=2, pictures=1, batches=(1, 2))


class Run:
    """Everything that is measured on one model. ``files`` is for what has to be on a disk."""

    def __init__(self, extent: Extent, placement: Placement, compiler: Compiler, report: Report, files: Path) -> None:
        self.extent = extent
        self.placement = placement
        self.compiler = compiler
        self.report = report
        self.files = files
        self.clock = Clock(placement.device)
        self.ceilings = Ceilings(self.clock, placement.device, extent.edge, extent.copied)
        self.model = full_size(placement, (extent.size, extent.size), extent.shapes)
        self.flops = picture_flops(extent.shapes, (extent.size, extent.size), extent.steps)
        self.compiled, self.model.compiled = self.model.compiled, None  # in its own trial alone
        self.png = 0.0
        self.base: dict[str, float] = {}

    # --- pictures ----------------------------------------------------------------------------------------------

    @contextmanager
    def bench(self) -> Iterator[Bench]:
        """A loop of its own for each trial: one that failed leaves nothing to the next."""
        bench = Bench(self.model, self.extent.size, self.extent.steps, 1, self.files / "models")
        try:
            yield bench
        finally:
            bench.loop.close()

    def theirs(self, what: str, change: Change | None = None) -> Iterator[Row]:
        """diffusers' own pipeline."""
        with (change or _nothing)(self.model), self.bench() as bench:
            first = self.clock.once(lambda: bench.pixels(bench.request()))
            yield Row(f"diffusers {what}, first picture", first / 1000, "s")
            yield from self._picture(f"diffusers {what}", lambda: bench.pixels(bench.request()))

    def ours(self, what: str, change: Change | None = None, **request: object) -> Iterator[Row]:
        """Our loop; from its time to files that of PNG is taken off."""
        with (change or _nothing)(self.model), self.bench() as bench:

            def picture() -> bytes:
                return drawn(bench, bench.request(**request))[0]

            first = self.clock.once(picture)
            file = picture()
            if not self.png:
                yield self._png(file)
            yield Row(f"ours {what}, first picture", (first - self.png) / 1000, "s")
            yield from self._picture(f"ours {what}", picture, less=self.png, whole=not request.get("steps"))

    def _png(self, file: bytes) -> Row:
        image = Image.open(io.BytesIO(file)).convert("RGB")
        taken = self.clock.spread(lambda: png(image), times=3, warm_up=1)
        self.png = taken.median
        return _row("PNG of a picture, on the CPU beside the loop", taken, "ms", note="of noise, the worst case")

    def _picture(self, what: str, work: Callable[[], object], less: float = 0.0, whole: bool = True) -> Iterator[Row]:
        taken = self.clock.spread(work, self.extent.pictures, warm_up=1)
        taken = Spread(taken.low - less, taken.median - less, taken.high - less)
        yield _row(f"{what}, one picture", taken, "s")
        if whole and self.ceilings.bf16:
            share = self.flops / (taken.median / 1000) / self.ceilings.bf16
            yield Row(f"{what}, MFU", 100 * share, "%", note="of the bf16 matrix product above")
        yield Row(f"{what}, peak memory", self.clock.peak(work), "GB")

    def speeds(self) -> Iterator[Row]:
        """As requests ask for them: what is drawn while the UNet is compiled, and then with every graph it needs."""
        self.model.compiled = compiled = self.compiled
        try:
            for speed in ("balanced", "fast"):
                with self.bench() as bench:

                    def picture(bench: Bench = bench, speed: str = speed) -> bytes:
                        return drawn(bench, bench.request(speed=speed, exact=False))[0]

                    made = compiled.shapes if compiled is not None else 0
                    first = self.clock.once(picture)
                    if not self.png:
                        yield self._png(picture())
                    note = f"begun with {made} graphs, the next made beside"
                    yield Row(f"ours {speed}, first picture", (first - self.png) / 1000, "s", note=note)
                    if compiled is not None:
                        taken = self.clock.once(partial(_all_graphs, compiled, picture))
                        yield Row(
                            f"ours {speed}, graphs made beside", taken / 1000, "s", note=f"{compiled.shapes} in all"
                        )
                        if compiled.problem is not None:
                            yield Row(f"ours {speed}, without graphs", note=compiled.problem)
                    # What leaves work out is not measured by the whole of it.
                    yield from self._picture(f"ours {speed}", picture, less=self.png, whole=speed != "fast")
        finally:
            self.model.compiled = None

    def batches(self) -> Iterator[Row]:
        """Several requests at once: those that share freely, and exact ones, which share what changes no bit."""
        largest = max(self.extent.batches)
        for exact, count in [(False, count) for count in self.extent.batches] + [(True, min(4, largest))]:
            with self.bench() as bench:

                def pictures(bench: Bench = bench, exact: bool = exact, count: int = count) -> None:
                    drawn(bench, *(bench.request(exact=exact) for _ in range(count)))

                pictures()  # the loop learns how many fit, and how many may share
                taken = self.clock.once(pictures)
            kind = "exact" if exact else "not exact"
            yield Row(f"ours {kind}, {count} at once", count / taken * 1000, "images/s", note="to PNG files")

    # --- what a picture is made of -----------------------------------------------------------------------------

    def parts(self) -> Iterator[Row]:
        subject = Subject(self.model)
        for what, work in ((STEP, subject.step), (DECODING, subject.decode)):
            with torch.inference_mode():
                taken = self.clock.spread(work, self.extent.calls)
            self.base[what] = taken.median
            yield _row(what, taken, "ms")
        with torch.inference_mode():
            yield _row("both text encoders, both prompts", self.clock.spread(subject.read, self.extent.calls), "ms")

    def previews(self) -> Iterator[Row]:
        yield Row("previews, fitting the map", self.clock.once(lambda: Previewer(self.model.vae)), "ms")
        previewer = Previewer(self.model.vae)
        edge = self.extent.size // self.model.factor
        latents = torch.randn(1, self.model.vae.config.latent_channels, edge, edge, device=self.placement.device)
        yield _row("a preview", self.clock.spread(lambda: previewer.preview(latents), self.extent.calls), "ms")

    def loras(self) -> Iterator[Row]:
        """Of rank 16, on all attention of the UNet."""
        adapters, subject = self.model.adapters, Subject(self.model)
        worn = []
        for name in ("one", "two"):
            path = self.files / f"{name}.safetensors"
            write_lora(path, self.model.unet)
            first = self.clock.once(lambda path=path: worn.append((WeightedLora(adapters.load(path)),)))
            yield Row(f"LoRA {name}, from disk", first, "ms")
        try:
            with torch.inference_mode():
                plain = self.clock.spread(subject.step, self.extent.calls).median
                switched = self.clock.spread(lambda: [adapters.use(loras) for loras in worn], self.extent.calls).median
                yield Row("LoRA, switch", switched / len(worn), "ms")
                with_lora = self.clock.spread(subject.step, self.extent.calls).median
                yield Row("UNet with a LoRA, one step", with_lora, "ms", note=f"{plain:.4g} ms without")
        finally:
            adapters.forget()

    def switching(self) -> Iterator[Row]:
        yield Row("model, from the device to main memory", self.clock.once(self.model.to_main_memory), "ms")
        gigabytes = self.model.bytes / 1e9
        back = self.clock.once(self.model.to_device)
        yield Row("model, from main memory to the device", back, "ms", note=f"{gigabytes:.3g} GB")

    # --- levers ------------------------------------------------------------------------------------------------

    def lever(self, lever: Lever, base: str) -> Iterator[Row]:
        subject = Subject(self.model)
        with lever.ready(subject, self.compiler) as work, torch.inference_mode():
            first = self.clock.once(work)
            taken = self.clock.spread(work, self.extent.calls, warm_up=3)
        each = Spread(taken.low / lever.steps, taken.median / lever.steps, taken.high / lever.steps)
        self.base[lever.name] = each.median
        over = lever.over or base
        gain = self.base[over] / each.median if over in self.base else None
        note = f"over {over}{'' if gain else ', which was not measured'}; first call {first / 1000:.3g} s"
        yield _row(lever.name, each, "ms", predicted=lever.gain, gain=gain, note=note)
        self.clock.tidy()

    def again(self, lever: Lever) -> Iterator[Row]:
        """Its compiler once more, with the cache that it left on the disk."""
        with lever.ready(Subject(self.model), self.compiler) as work, torch.inference_mode():
            yield Row(f"{lever.name}, first call with the cache", self.clock.once(work) / 1000, "s")

    def fast(self, model: Model) -> AbstractContextManager[None]:
        """What diffusers' guide to fast inference has, of what needs no further library."""
        return together(
            channels_last(model.unet),
            channels_last(model.vae),
            fused(model.unet),
            fused(model.vae),
            compiled(model.unet, self.compiler),
            compiled_decoding(model.vae, self.compiler),
        )

    def fast_with_float8(self, model: Model) -> AbstractContextManager[None]:
        return together(
            channels_last(model.unet),
            channels_last(model.vae),
            fused(model.unet),
            float8(model.unet),
            compiled(model.unet, self.compiler),
            compiled_decoding(model.vae, self.compiler),
        )

    def compiled_in_part(self, model: Model) -> AbstractContextManager[None]:
        return together(
            channels_last(model.unet),
            channels_last(model.vae),
            compiled_blocks(model.unet, self.compiler),
            compiled_decoding(model.vae, self.compiler),
        )

    # --- processes of their own --------------------------------------------------------------------------------

    def starts(self) -> Iterator[Row]:
        """New processes, which load the model from a folder in the system's cache of the disk; the last ones may take
        no more of the card than an owner of a smaller one has."""
        with self.bench() as bench:
            saved = self.clock.once(lambda: bench.pipeline.save_pretrained(self.files / "sdxl-random"))
        yield Row("model, written as a folder of diffusers", saved / 1000, "s")
        self.model.to_main_memory()
        self.clock.tidy()
        try:
            yield from self._start("cold start")
            for limit, seconds in ((7.5, 40), (4.0, 80)) if self.placement.can_offload else ():
                what = f"cold start in at most {limit} GB"
                self.report.attempt(what, lambda what=what, limit=limit: self._start(what, limit), seconds)
        finally:
            self.model.to_device()

    def _start(self, what: str, limit: float | None = None) -> Iterator[Row]:
        options = {"--model": self.files / "sdxl-random", "--size": self.extent.size, "--steps": self.extent.steps}
        options |= {"--device": self.placement.device.type, **({"--limit": limit} if limit else {})}
        command = [sys.executable, first_picture, *(str(word) for pair in options.items() for word in pair)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        if done.returncode:
            last = done.stderr.strip().split("\n")[-1]
            raise RuntimeError(f"the process ended with {done.returncode}: {last}")
        taken = json.loads(done.stdout.strip().split("\n")[-1])
        if limit is None:
            yield Row(f"{what}: libraries imported", taken["imported"], "s")
            yield Row(f"{what}: model loaded", taken["ready"], "s")
        yield Row(f"{what}: first picture", taken["first"], "s", note="since the start, to a PNG file")
        yield Row(f"{what}: second picture", taken["second"], "s", note="to a PNG file")
        if taken["peak"] is not None:
            note = f"{taken['held']:.3g} GB held by torch; the card's own context comes on top"
            yield Row(f"{what}: peak memory", taken["peak"], "GB", note=note)

    # --- all of it ---------------------------------------------------------------------------------------------

    def everything(self) -> None:
        """In the order of what is missed most when time runs out. Seconds are those of a large card."""
        attempt = self.report.attempt
        attempt("copy", self.ceilings.copying)
        attempt("bf16 matrix product", self.ceilings.bf16_product)
        attempt("fp8 matrix product", self.ceilings.float8_product)
        self.report.add(Row("one picture", self.flops / 1e12, "TFLOP", note="counted by torch, attention included"))
        attempt("diffusers eager", lambda: self.theirs("eager"), 15)
        attempt("ours exact", lambda: self.ours("exact"), 20)
        attempt("parts", self.parts)
        attempt("previews", self.previews)
        attempt("LoRA", self.loras)
        attempt("model switch", self.switching, 5)
        few = min(4, self.extent.steps)
        attempt("few steps", lambda: self.ours(f"in {few} steps, no guidance", steps=few, guidance=1.0), 10)
        attempt("diffusers fast", lambda: self.theirs("fast", self.fast), 100)
        attempt("speeds", self.speeds, 120)
        attempt("batches", self.batches, 70)
        attempt("cold start", self.starts, 60)
        # Levers by themselves. Those with kernels of our own come late: one that writes where it must not ends
        # everything on the card.
        compilers = [lever for lever in STEP_LEVERS if lever.seconds > 10]
        own = [lever for lever in STEP_LEVERS if "Triton" in lever.name]
        for lever in STEP_LEVERS:
            if lever not in compilers and lever not in own:
                attempt(lever.name, partial(self.lever, lever, STEP), lever.seconds, lever.gain)
        for lever in DECODING_LEVERS:
            attempt(lever.name, partial(self.lever, lever, DECODING), lever.seconds, lever.gain)
        for lever in compilers:
            attempt(lever.name, partial(self.lever, lever, STEP), lever.seconds, lever.gain)
        attempt("cache", lambda: self.again(compilers[0]), 15)
        attempt("ours with those settings", lambda: self.ours("with those settings", self.fast), 100)
        attempt("ours with those and fp8", lambda: self.ours("with those and fp8", self.fast_with_float8), 110)
        attempt("ours with compiled blocks", lambda: self.ours("with compiled blocks", self.compiled_in_part), 50)
        for lever in own:
            attempt(lever.name, partial(self.lever, lever, STEP), lever.seconds, lever.gain)


def _all_graphs(compiled: CompiledUNet, picture: Callable[[], object]) -> None:
    """Draw until no further shape is met. One is compiled at a time."""
    before = -1
    while before < compiled.shapes:
        before = compiled.shapes
        picture()
        compiled.wait()


def _nothing(model: Model) -> AbstractContextManager[None]:
    return nullcontext()


def drawn(bench: Bench, *requests: ImageRequest) -> list[bytes]:
    """The pictures' files. Raises ``EngineFailed``."""
    files = []
    for event in bench.ours(*requests):
        if isinstance(event, Failed):
            raise EngineFailed(event.message)
        if isinstance(event, Done):
            files.append(event.results[0].image)
    return files


def _row(what: str, taken: Spread, unit: str, **more: object) -> Row:
    parts = {"ms": 1.0, "s": 1000.0}[unit]
    return Row(what, taken.median / parts, unit, taken.low / parts, taken.high / parts, **more)


def card(placement: Placement) -> str:
    if placement.device.type == "cuda":
        return torch.cuda.get_device_name(placement.device)
    return placement.device.type.upper()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="otherwise the best there is")
    parser.add_argument("--tiny", action="store_true", help="small shapes, few steps: not to measure, but to try")
    parser.add_argument("--budget", type=float, default=480, help="seconds after which nothing more is begun")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--cache", type=Path, help="a folder for compiled code; otherwise a new one")
    parser.add_argument("--backend", default="inductor", help="of torch.compile; eager only traces")
    parser.add_argument("--only", default="", help="trials whose names have one of these words, with commas between")
    parser.add_argument("--max-autotune", action="store_true", help="compile for minutes longer")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # compilers may still be writing there
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str((given.cache or Path(folder) / "cache").absolute())
        placement = place(given.device)
        if placement.device.type == "cpu":
            placement = Placement(placement.device, "cpu", torch.bfloat16)
        extent = SMALL if given.tiny else WHOLE
        about = {
            "card": card(placement),
            "size": extent.size,
            "steps": extent.steps,
            **{name: version(name) for name in ("torch", "diffusers", "transformers")},
            "dtype": str(placement.dtype),
        }
        print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
        only = [*given.only.split(","), *NEEDED] if given.only else [""]
        report = Report(given.out, about, given.budget, only)
        compiler = Compiler(given.backend, "max-autotune-no-cudagraphs" if given.max_autotune else None)
        Run(extent, placement, compiler, report, Path(folder)).everything()
        print(f"{report.seconds:.0f} s; written to {given.out / 'gpu.md'} and {given.out / 'gpu.json'}")
        if report.skipped:
            print(f"no time was left for: --only '{','.join(report.skipped)}'")


if __name__ == "__main__":
    main()
