"""Ways to make the UNet and the VAE faster, each by itself, each with the gain that was predicted before measuring.

Each is a context: inside it a module is changed in place, outside it is as it was. So they can be put together, act on
diffusers' pipeline as well as on our loop, and be measured one after the other on the same weights. The reasons for the
predictions are in ``docs/performance-log.md``, beside what came of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.float8 import float8
from benchmarks.flops import TOKENS
from benchmarks.fusions import gated_units, norms_with_silu
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.parts import TIME_IDS
from illustrious.images.diffusion.shortcuts import forward

# --- what can be changed -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compiler:
    """``backend`` is torch's word; ``mode`` its compiler's own."""

    backend: str = "inductor"
    mode: str | None = None

    def options(self, mode: str | None = None) -> dict[str, Any]:
        """Of ``torch.compile``, for one shape. Only inductor knows modes."""
        wanted = mode or self.mode
        modes = {"mode": wanted} if wanted and self.backend == "inductor" else {}
        return {"backend": self.backend, "dynamic": False, **modes}


@contextmanager
def channels_last(module: nn.Module) -> Iterator[None]:
    """Convolutions' weights with their channels side by side, as tensor cores read them."""
    try:
        module.to(memory_format=torch.channels_last)
        yield
    finally:
        module.to(memory_format=torch.contiguous_format)


@contextmanager
def fused(module: Any) -> Iterator[None]:
    """One matrix product for query, key and value, instead of three. LoRAs on those three do not act meanwhile."""
    try:
        module.fuse_qkv_projections()
        yield
    finally:
        module.unfuse_qkv_projections()
        for attention in module.modules():
            if isinstance(attention, Attention):
                attention.fused_projections = False
                for name in ("to_qkv", "to_kv"):
                    if hasattr(attention, name):
                        delattr(attention, name)


@contextmanager
def compiled(module: nn.Module, compiler: Compiler, mode: str | None = None) -> Iterator[None]:
    """As a whole. What is worn meanwhile (LoRAs) acts: each set of them has a graph of its own."""
    try:
        module.compile(fullgraph=True, **compiler.options(mode))
        with _minding_hooks():
            yield
    finally:
        _uncompile(module)


@contextmanager
def compiled_blocks(module: Any, compiler: Compiler) -> Iterator[None]:
    """Only the transformer blocks, which are many and alike: they are compiled once."""
    try:
        module.compile_repeated_blocks(fullgraph=True, **compiler.options())
        with _minding_hooks():
            yield
    finally:
        _uncompile(module)


def _minding_hooks() -> AbstractContextManager[None]:
    """By default torch takes the hooks of a compiled module for those it had when it was compiled, for ever."""
    patch: AbstractContextManager[None] = torch._dynamo.config.patch(skip_nnmodule_hook_guards=False)
    return patch


def _uncompile(module: nn.Module) -> None:
    for part in module.modules():
        part._compiled_call_impl = None  # torch has no other way back
    torch._dynamo.reset()


@contextmanager
def compiled_decoding(vae: Any, compiler: Compiler) -> Iterator[None]:
    """The decoder, which is called through the VAE's ``decode``."""
    vae.decode = torch.compile(vae.decode, fullgraph=True, **compiler.options())
    try:
        yield
    finally:
        del vae.decode
        torch._dynamo.reset()


@contextmanager
def tried_convolutions() -> Iterator[None]:
    """cuDNN tries its algorithms once for each shape, and takes the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def cudnn_attention() -> AbstractContextManager[None]:
    """Before all others; not every length of text suits it."""
    others = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    kernels: AbstractContextManager[None] = sdpa_kernel([SDPBackend.CUDNN_ATTENTION, *others], set_priority=True)
    return kernels


def norms_in_triton(unet: nn.Module) -> AbstractContextManager[None]:
    """GroupNorm and the SiLU after it. Raises ``ImportError`` where there is no Triton."""
    from benchmarks.triton_kernels import norm_and_silu  # not every torch brings it

    return norms_with_silu(unet, norm_and_silu)


def gated_units_in_triton(unet: nn.Module) -> AbstractContextManager[None]:
    """GEGLU. Raises ``ImportError`` where there is no Triton."""
    from benchmarks.triton_kernels import gated

    return gated_units(unet, gated)


@contextmanager
def together(*changes: AbstractContextManager[None]) -> Iterator[None]:
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(change)
        yield


# --- what is timed -------------------------------------------------------------------------------------------------


class Subject:
    """One step of one picture with guidance (both halves are rows of one call), one decoding, and reading both
    prompts."""

    def __init__(self, model: Model) -> None:
        self.unet, self.vae = model.unet, model.vae
        self._text_encoders = [encoder.model for encoder in model.text_encoders]
        width, height = model.size
        config, placement = self.unet.config, model.placement
        pooled = config.projection_class_embeddings_input_dim - TIME_IDS * config.addition_time_embed_dim

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(placement.device, placement.dtype)

        self._latents = random(1, config.in_channels, height // model.factor, width // model.factor)
        self._embeddings = random(2, TOKENS, config.cross_attention_dim)
        self._pooled = random(2, pooled)
        self._sizes = random(2, TIME_IDS)
        self._timestep = torch.full((2,), 500.0, device=placement.device)
        self._words = torch.zeros(2, TOKENS, dtype=torch.long, device=placement.device)

    def step(self, rows: slice = slice(0, 2)) -> Tensor:
        """1 to 2 rows through the UNet."""
        timestep = self._timestep[rows]
        answer: Tensor = self.unet(
            self._latents.repeat(len(timestep), 1, 1, 1),
            timestep,
            encoder_hidden_states=self._embeddings[rows],
            added_cond_kwargs={"text_embeds": self._pooled[rows], "time_ids": self._sizes[rows]},
            return_dict=False,
        )[0]
        return answer

    def parts(self, deep: Tensor | None = None) -> Tensor:
        """The same for both rows, by the engine's own function; what its deep blocks said. With ``deep`` they are not
        asked."""
        added = {"text_embeds": self._pooled, "time_ids": self._sizes}
        sample = self._latents.repeat(2, 1, 1, 1)
        return forward(self.unet, sample, self._timestep, self._embeddings, added, deep=deep)[1]

    def decode(self) -> Tensor:
        pixels: Tensor = self.vae.decode(self._latents, return_dict=False)[0]
        return pixels

    def read(self) -> None:
        for encoder in self._text_encoders:
            encoder(self._words, output_hidden_states=True)


# --- the levers ----------------------------------------------------------------------------------------------------

Ready = Callable[[Subject, Compiler], AbstractContextManager[Callable[[], object]]]
"""Entered outside of inference mode: weights that are changed in it become tensors of that mode (``full_size.py``)."""


@dataclass(frozen=True)
class Lever:
    """``ready`` changes the subject and gives the work to be timed, which is ``steps`` steps or decodings.

    ``gain``: how many times as fast as ``over``, another lever or nothing. ``seconds`` are what trying it takes on a
    large card, most of them for compilers.
    """

    name: str
    gain: float
    ready: Ready
    steps: int = 1
    over: str | None = None
    seconds: float = 10


def _step(change: Callable[[Any], AbstractContextManager[None]]) -> Ready:
    @contextmanager
    def ready(subject: Subject, compiler: Compiler) -> Iterator[Callable[[], object]]:
        with change(subject.unet):
            yield subject.step

    return ready


def _compiled_step(change: Callable[[Any, Compiler], AbstractContextManager[None]]) -> Ready:
    @contextmanager
    def ready(subject: Subject, compiler: Compiler) -> Iterator[Callable[[], object]]:
        with change(subject.unet, compiler):
            yield subject.step

    return ready


def _decoding(change: Callable[[Any, Compiler], AbstractContextManager[None]]) -> Ready:
    @contextmanager
    def ready(subject: Subject, compiler: Compiler) -> Iterator[Callable[[], object]]:
        with change(subject.vae, compiler):
            yield subject.decode

    return ready


@contextmanager
def _in_graphs(subject: Subject, compiler: Compiler) -> Iterator[Callable[[], object]]:
    def step() -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return subject.step()

    unet = subject.unet
    with channels_last(unet), fused(unet), compiled(unet, compiler, "reduce-overhead"):
        yield step


@contextmanager
def _two_streams(subject: Subject, compiler: Compiler) -> Iterator[Callable[[], object]]:
    streams = [torch.cuda.Stream() for _ in range(2)]

    def step() -> None:
        here = torch.cuda.current_stream()
        for row, stream in enumerate(streams):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                subject.step(slice(row, row + 1))
        for stream in streams:
            here.wait_stream(stream)

    yield step


def _then_a_step(what: Callable[[Subject], object]) -> Ready:
    @contextmanager
    def ready(subject: Subject, compiler: Compiler) -> Iterator[Callable[[], object]]:
        yield lambda: (what(subject), subject.step())

    return ready


def _beside_a_step(what: Callable[[Subject], object]) -> Ready:
    """On a stream of its own."""

    @contextmanager
    def ready(subject: Subject, compiler: Compiler) -> Iterator[Callable[[], object]]:
        beside = torch.cuda.Stream()

        def work() -> None:
            here = torch.cuda.current_stream()
            beside.wait_stream(here)  # for what is there before the step, and so not for the step itself
            subject.step()
            with torch.cuda.stream(beside):
                what(subject)
            here.wait_stream(beside)

        yield work

    return ready


@contextmanager
def _one_after_the_other(subject: Subject, compiler: Compiler) -> Iterator[Callable[[], object]]:
    yield lambda: [subject.step(slice(row, row + 1)) for row in range(2)]


@contextmanager
def _guided_for_a_while(subject: Subject, compiler: Compiler) -> Iterator[Callable[[], object]]:
    """Of five steps three with guidance."""
    yield lambda: [subject.step(slice(0, rows)) for rows in (2, 2, 2, 1, 1)]


def _repeating(steps: int) -> Ready:
    """Of so many steps one asks the deep blocks."""

    @contextmanager
    def ready(subject: Subject, compiler: Compiler) -> Iterator[Callable[[], object]]:
        def work() -> None:
            deep = subject.parts()
            for _ in range(steps - 1):
                subject.parts(deep)

        yield work

    return ready


WHOLE, FLOAT8 = "UNet compiled as a whole", "fp8 linear layers, compiled as a whole"
READING, DECODING = "text encoders, then a step", "a decoding, then a step"
STEP_LEVERS: Sequence[Lever] = (
    Lever("channels_last", 1.03, _step(channels_last)),
    Lever("fused QKV", 1.01, _step(fused)),
    Lever("cuDNN tries its convolutions", 1.03, _step(lambda unet: tried_convolutions())),
    Lever(
        "channels_last, cuDNN tries its convolutions",
        1.06,
        _step(lambda unet: together(channels_last(unet), tried_convolutions())),
    ),
    Lever("attention by flash", 1.00, _step(lambda unet: sdpa_kernel([SDPBackend.FLASH_ATTENTION]))),
    Lever("attention by cuDNN where it can", 1.02, _step(lambda unet: cudnn_attention())),
    Lever("GroupNorm with SiLU in Triton", 1.02, _step(norms_in_triton)),
    Lever("GEGLU in Triton", 1.02, _step(gated_units_in_triton)),
    Lever(
        "channels_last, both in Triton",
        1.07,
        _step(lambda unet: together(channels_last(unet), norms_in_triton(unet), gated_units_in_triton(unet))),
    ),
    Lever("halves of guidance one after the other", 0.90, _one_after_the_other),
    Lever("halves of guidance on two streams", 0.95, _two_streams),
    Lever(READING, 0.88, _then_a_step(lambda subject: subject.read())),
    Lever("text encoders beside a step", 1.12, _beside_a_step(lambda subject: subject.read()), over=READING),
    Lever(DECODING, 0.55, _then_a_step(lambda subject: subject.decode())),
    Lever("a decoding beside a step", 1.05, _beside_a_step(lambda subject: subject.decode()), over=DECODING),
    Lever("guidance in 3 of 5 steps", 1.20, _guided_for_a_while, steps=5),
    Lever("deep blocks every 2nd step", 1.80, _repeating(2), steps=2),
    Lever("deep blocks every 3rd step", 2.40, _repeating(3), steps=3),
    Lever("fp8 linear layers, not compiled", 0.90, _step(float8)),
    Lever("transformer blocks compiled", 1.12, _compiled_step(compiled_blocks), seconds=25),
    Lever(
        WHOLE,
        1.35,
        _compiled_step(lambda unet, compiler: together(channels_last(unet), fused(unet), compiled(unet, compiler))),
        seconds=90,
    ),
    Lever(
        FLOAT8,
        1.20,
        _compiled_step(
            lambda unet, compiler: together(channels_last(unet), fused(unet), float8(unet), compiled(unet, compiler))
        ),
        over=WHOLE,
        seconds=110,
    ),
    Lever("CUDA graphs", 1.03, _in_graphs, over=WHOLE, seconds=100),
    Lever(
        "fp8 convolutions, too",
        1.03,
        _compiled_step(
            lambda unet, compiler: together(
                channels_last(unet), fused(unet), float8(unet, convolutions=True), compiled(unet, compiler)
            )
        ),
        over=FLOAT8,
        seconds=120,
    ),
)
"""In the order they are tried; those that compile come last."""

DECODING_LEVERS: Sequence[Lever] = (
    Lever("VAE channels_last", 1.20, _decoding(lambda vae, compiler: channels_last(vae))),
    Lever(
        "VAE channels_last, cuDNN tries its convolutions",
        1.30,
        _decoding(lambda vae, compiler: together(channels_last(vae), tried_convolutions())),
    ),
    Lever(
        "VAE channels_last, compiled",
        1.80,
        _decoding(lambda vae, compiler: together(channels_last(vae), compiled_decoding(vae, compiler))),
        seconds=40,
    ),
)
