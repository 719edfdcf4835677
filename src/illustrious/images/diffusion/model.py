"""The loaded model: every part in its place, ready to draw."""

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks import apply_group_offloading

from illustrious.checksums import verify
from illustrious.errors import Unavailable
from illustrious.images import EngineOptions, Loading
from illustrious.images.diffusion.adapters import Adapters
from illustrious.images.diffusion.checkpoint import open_checkpoint, starter_folder
from illustrious.images.diffusion.conditioner import Conditioner, TextEncoder
from illustrious.images.diffusion.controlnet import ControlNets
from illustrious.images.diffusion.parts import TIME_IDS, Checkpoint, latent_factor
from illustrious.images.diffusion.placement import Placement, free_memory, memory_ran_out, place
from illustrious.images.diffusion.samplers import Sampler
from illustrious.images.diffusion.weights import assemble

STARTER_NAME = "sdxl-starter"
STARTER_NOTE = (
    "This is the small built-in starter model: it knows about 107 things (apple, castle, cat, panda, rocket, …), "
    "drawn as icons of 64×64 pixels, and nothing else. For real pictures give an SDXL checkpoint with --model."
)


@dataclass(eq=False)
class Model:
    """``size`` is the native width and height in pixels, ``factor`` the pixels per latent along an edge."""

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
    conditioner: Conditioner = field(init=False)
    adapters: Adapters = field(init=False)
    controlnets: ControlNets = field(init=False)
    key: object = field(init=False, default_factory=object)
    """Stands for this model in what is remembered longer than it lives."""

    def __post_init__(self) -> None:
        first, second = self.text_encoders
        self.conditioner = Conditioner(self.text_encoders, self.zeros_for_empty_negative)
        prediction = str(self.sampler.config.get("prediction_type", "epsilon"))
        self.adapters = Adapters(self.unet, (first.model, second.model), prediction)
        self.controlnets = ControlNets(self.unet, self.placement, self.factor)
        self._on_device = [[first.model, second.model], [self.vae], [self.unet]]

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
        return len(self._on_device) == 3

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
        for part in self._on_device.pop(0):
            apply_group_offloading(
                part,
                onload_device=self.placement.device,
                offload_device=torch.device("cpu"),
                offload_type="leaf_level",
            )
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
    parts = (*checkpoint.text_encoders, checkpoint.vae, checkpoint.unet)
    models: list[Any] = []
    yield Loading(progress=0.2)
    try:
        for part, progress in zip(parts, (0.3, 0.4, 0.5, 1.0), strict=True):
            models.append(assemble(part, placement))
            yield Loading(progress=progress)
    except RuntimeError as error:
        if not memory_ran_out(error):
            raise
        raise Unavailable(
            f"{checkpoint.name} does not fit into the memory of {placement.device}. "
            "Choose a smaller model with --model, or close what else uses that memory."
        ) from error
    first, second, vae, unet = models
    _check_fit(checkpoint, first.config, second.config, vae.config, unet.config)
    is_starter = path is None
    return Model(
        name=STARTER_NAME if is_starter else checkpoint.name,
        note=STARTER_NOTE if is_starter else None,
        placement=placement,
        unet=unet,
        vae=vae,
        text_encoders=(TextEncoder(checkpoint.tokenizers[0], first), TextEncoder(checkpoint.tokenizers[1], second)),
        sampler=checkpoint.sampler,
        size=checkpoint.size,
        factor=latent_factor(checkpoint.vae.config),
        zeros_for_empty_negative=checkpoint.zeros_for_empty_negative,
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
