"""The loaded model: every part in its place, ready to draw."""

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks import apply_group_offloading

from illustrious.checksums import verify
from illustrious.errors import Unavailable
from illustrious.images import EngineOptions, Loading
from illustrious.images.diffusion.adapters import Adapters
from illustrious.images.diffusion.checkpoint import open_checkpoint, starter_folder
from illustrious.images.diffusion.compiled import CompiledUNet
from illustrious.images.diffusion.conditioner import Conditioner, TextEncoder
from illustrious.images.diffusion.controlnet import ControlNets
from illustrious.images.diffusion.parts import TIME_IDS, Checkpoint, Part, latent_factor
from illustrious.images.diffusion.placement import Placement, free_memory, memory_ran_out, place
from illustrious.images.diffusion.rounded import RoundedUNet
from illustrious.images.diffusion.samplers import Sampler
from illustrious.images.diffusion.weights import assemble

STARTER_NAME = "sdxl-starter"
STARTER_NOTE = (
    "This is the small built-in starter model: it knows 129 things (apple, castle, cat, tiger, rocket, …), what to do "
    "with them (colours, counts, backgrounds, places) and a few scenes, drawn like icons of 128×128 pixels. For real "
    "pictures give an SDXL checkpoint with --model."
)

AWAY_NOTE = (
    "This model is too large for the memory of {device}: a part of it stays in main memory, which takes longer. "
    "Close what else uses that memory, or choose a smaller model with --model."
)


@dataclass(eq=False)
class Model:
    """``size`` is the native width and height in pixels, ``factor`` the pixels per latent along an edge. ``away`` are
    parts that lie in main memory from the beginning, ``preview`` the decoder for pictures under way, if there is one.
    """

    name: str
    note: str | None
    placement: Placement
    unet: Any
    vae: Any
    text_encoders: tuple[TextEncoder, TextEncoder]
    sampler: Sampler
    size: tuple[int, int]
    factor: int
    zeros_for_empty_negative: bool
    away: tuple[Any, ...] = ()
    preview: Any = None
    conditioner: Conditioner = field(init=False)
    adapters: Adapters = field(init=False)
    controlnets: ControlNets = field(init=False)
    compiled: CompiledUNet | None = field(init=False, default=None)
    rounded: RoundedUNet | None = field(init=False, default=None)
    key: object = field(init=False, default_factory=object)
    """Stands for this model in what is remembered longer than it lives."""

    def __post_init__(self) -> None:
        first, second = self.text_encoders
        self.conditioner = Conditioner(self.text_encoders, self.zeros_for_empty_negative)
        prediction = str(self.sampler.config.get("prediction_type", "epsilon"))
        self.adapters = Adapters(self.unet, (first.model, second.model), prediction)
        self.controlnets = ControlNets(self.unet, self.placement, self.factor)
        if self.placement.rounds:
            self.rounded = RoundedUNet(self.unet, self.adapters)
        if self.placement.compiles and not any(part is self.unet for part in self.away):
            self.compiled = CompiledUNet(self.unet)
        groups = ([first.model, second.model], [self.vae], [self.unet])
        here = [[part for part in group if all(part is not other for other in self.away)] for group in groups]
        self._on_device = [group for group in here if group]

    @property
    def is_inpainting(self) -> bool:
        """The UNet is told what lies around the mask, in further channels."""
        return bool(self.unet.config.in_channels > self.unet.config.out_channels)

    @property
    def embedding_widths(self) -> tuple[int, int]:
        """Of one token, in each text encoder."""
        first, second = (encoder.model.config.hidden_size for encoder in self.text_encoders)
        return first, second

    @property
    def bytes(self) -> int:
        """Of all its weights."""
        return sum(tensor.nbytes for part in self._parts for tensor in part.state_dict().values())

    @property
    def is_whole(self) -> bool:
        """No part of it had to leave the device yet."""
        return len(self._on_device) == 3 and not self.away

    @property
    def problems(self) -> list[str]:
        """What went wrong with what should make it faster."""
        beside = (self.compiled, self.rounded)
        return [own.problem for own in beside if own is not None and own.problem is not None]

    @property
    def _parts(self) -> tuple[Any, ...]:
        first, second = self.text_encoders
        return first.model, second.model, self.vae, self.unet

    def to_main_memory(self) -> None:
        """Out of the device's, for another model. What was loaded for it is loaded again when it is asked for."""
        self.adapters.forget()
        self.controlnets.forget()
        self.conditioner.forget()
        self._move(torch.device("cpu"))

    def to_device(self) -> None:
        self._move(self.placement.device)

    def _move(self, device: torch.device) -> None:
        for part in self._parts:
            part.to(device)

    def make_room(self) -> bool:
        """From now on the next part lies in main memory, and only the layer at work on the device: first the text
        encoders, then the VAE, last the UNet. What is computed stays the same. Returns whether there was one left."""
        if not self.placement.can_offload or not self._on_device:
            return False
        if self.compiled is not None:
            self.compiled.retire()  # a graph would look for parameters where they are no more
        for part in self._on_device.pop(0):
            keep_in_main_memory(part, self.placement)
        self.controlnets.forget()
        free_memory(self.placement)
        return True


def load(options: EngineOptions) -> Generator[Loading, None, Model]:
    """The model an engine begins with: part by part, telling how far it is. Raises ``Unavailable``."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    placement = place(options.device)
    yield Loading(progress=0.1)
    return (yield from put_together(Path(options.model) if options.model is not None else None, placement))


def put_together(path: Path | None, placement: Placement) -> Generator[Loading, None, Model]:
    """The model at ``path``, or the starter, in its place. Raises ``Unavailable``."""
    if path is None:
        verify(starter_folder(), "The starter model")
    checkpoint = open_checkpoint(path or starter_folder())
    # The part that works most comes first: what finds no room after it is missed least.
    parts = (checkpoint.unet, checkpoint.vae, *checkpoint.text_encoders)
    models: list[Any] = []
    away: list[Any] = []
    yield Loading(progress=0.2)
    try:
        for part, progress in zip(parts, (0.7, 0.8, 0.9, 1.0), strict=True):
            model = _fitted(part, placement)
            if model is None:
                model = assemble(part, replace(placement, device=torch.device("cpu")))
                keep_in_main_memory(model, placement)
                away.append(model)
            models.append(model)
            yield Loading(progress=progress)
    except RuntimeError as error:
        if not memory_ran_out(error):
            raise
        raise Unavailable(
            f"{checkpoint.name} does not fit into the memory of {placement.device}. "
            "Choose a smaller model with --model, or close what else uses that memory."
        ) from error
    unet, vae, first, second = models
    _check_fit(checkpoint, first.config, second.config, vae.config, unet.config)
    is_starter = path is None
    note = AWAY_NOTE.format(device=placement.device) if away else None
    return Model(
        name=STARTER_NAME if is_starter else checkpoint.name,
        note=STARTER_NOTE if is_starter else note,
        placement=placement,
        unet=unet,
        vae=vae,
        text_encoders=(TextEncoder(checkpoint.tokenizers[0], first), TextEncoder(checkpoint.tokenizers[1], second)),
        sampler=checkpoint.sampler,
        size=checkpoint.size,
        factor=latent_factor(checkpoint.vae.config),
        zeros_for_empty_negative=checkpoint.zeros_for_empty_negative,
        preview=assemble(checkpoint.preview, placement) if checkpoint.preview is not None else None,
        away=tuple(away),
    )


def _fitted(part: Part, placement: Placement) -> Any | None:
    """The part's model on the device; ``None`` when it finds no room there, and there is a main memory beside."""
    try:
        return assemble(part, placement)
    except RuntimeError as error:
        if not placement.can_offload or not memory_ran_out(error):
            raise
    free_memory(placement)
    return None


def keep_in_main_memory(part: Any, placement: Placement) -> None:
    """From now on only the layer at work is on the device. What is computed stays the same."""
    apply_group_offloading(
        part,
        onload_device=placement.device,
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
    )


def _check_fit(checkpoint: Checkpoint, first: Any, second: Any, vae: Any, unet: Any) -> None:
    """The parts of a folder are separate files: refuse those that do not belong together before anything is drawn."""
    sizes = TIME_IDS * unet.addition_time_embed_dim
    words = zip(checkpoint.tokenizers, (first, second), strict=True)
    fits = {
        "the tokenizers": all(len(tokenizer) <= config.vocab_size for tokenizer, config in words),
        "the text encoders": unet.cross_attention_dim == first.hidden_size + second.hidden_size
        and unet.projection_class_embeddings_input_dim == sizes + second.projection_dim,
        "the VAE": unet.out_channels == vae.latent_channels,
    }
    for what, fit in fits.items():
        if not fit:
            raise Unavailable(
                f"{checkpoint.name} is put together from parts that do not fit: {what} and the rest are of different "
                "models. Choose another with --model."
            )
