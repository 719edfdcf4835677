"""The denoising loop, ours so that something can happen between two steps.

A picture under way is a value of its own, with its own scheduler, guidance and place in the schedule; the loop only
asks the UNet for it. It computes what diffusers' SDXL pipelines compute, in float32 outside the UNet whatever the
UNet's dtype.
"""

import inspect
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

from illustrious.errors import InvalidRequest
from illustrious.images.diffusion.conditioner import Conditioning, ConditioningSchedule, Half
from illustrious.images.diffusion.controlnet import Residuals, stacked
from illustrious.images.diffusion.edit import Start
from illustrious.images.diffusion.shortcuts import Deep, Parts

Control = Callable[[Tensor, Tensor, Sequence[Half], int, int], Residuals | None]
"""Guidance by pictures: what the UNet sees (rows × channels × height × width), the timestep, the halves that are its
rows, the turn and the number of turns → what is added inside the UNet."""


def noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal noise from a generator on the CPU, so that a seed means the same picture on every device."""
    return torch.randn(shape, generator=generator, dtype=torch.float32)


@dataclass(frozen=True)
class _Answer:
    """The UNet's last answer: what it saw (scaled latents), what it said with guidance, and when."""

    seen: Tensor
    prediction: Tensor
    timestep: Tensor


class Picture:
    """One picture under way. ``latents`` 1 × 4 × height × width, float32; ``step`` of ``steps`` are done.

    ``noise`` is what it begins with, ``start`` what it is drawn over; with less than full strength fewer than the
    ``steps`` asked for are drawn. A *turn* is one call of the UNet: samplers of second order take two a step.
    ``rescale`` is guidance rescale. Pictures of one ``group`` may share a call, ``exact`` ones where that changes no
    bit; ``worn`` is what must be around it. ``parts`` answers in place of the UNet; then of ``deep_every`` turns one
    may be enough to ask its deep blocks at, which is set before the first.
    Raises ``InvalidRequest`` when the scheduler cannot take so many steps.
    """

    def __init__(
        self,
        scheduler: Any,
        noise: Tensor,
        conditioning: ConditioningSchedule,
        steps: int,
        guidance: float,
        generator: torch.Generator,
        rescale: float = 0.0,
        start: Start | None = None,
        control: Control | None = None,
        group: Hashable = None,
        exact: bool = True,
        worn: Callable[[], AbstractContextManager[object]] = nullcontext,
        parts: Parts | None = None,
    ) -> None:
        start = start or Start()
        device = conditioning.at(0).positive.embeddings.device
        try:
            scheduler.set_timesteps(steps, device=device)
        except ValueError as error:
            raise InvalidRequest(
                f"This model's sampler cannot take {steps} steps ({error}). Ask for another number.", field="steps"
            ) from error
        first = start.first_turn(steps, scheduler.order)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)  # also saves the scheduler a look-up, which would wait for the device
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        self.conditioning = conditioning
        self.guidance = guidance
        self.control = control
        self.group = group
        self.exact = exact
        self.worn = worn
        self.parts = parts
        self.deep_every = 1
        self.step = 0
        self.steps = steps - first // scheduler.order
        self._scheduler = scheduler
        self._timesteps = scheduler.timesteps[first:]
        self._noise = noise.to(device)
        self._start = start
        self._rescale = rescale
        self._deep: tuple[Deep, ...] = ()
        self._turn = 0
        self._warm_up = max(len(self._timesteps) - self.steps * scheduler.order, 0)
        self._randomness = {"generator": generator} if takes_generator else {}
        self._answer: _Answer | None = None
        self.latents = start.noised(scheduler, self._noise, self._timesteps)

    @property
    def done(self) -> bool:
        return self._turn == len(self._timesteps)

    @property
    def left(self) -> int:
        """Turns still to take."""
        return len(self._timesteps) - self._turn

    @property
    def timestep(self) -> Tensor:
        timestep: Tensor = self._timesteps[self._turn]
        return timestep

    @property
    def told(self) -> Conditioning:
        """What the UNet is told of it at this turn."""
        return self.conditioning.at(self.step)

    @property
    def repeated(self) -> tuple[Deep, ...]:
        """What the deep blocks say at this turn without being asked, for each half; nothing: they are asked."""
        if (self.left - 1) % self.deep_every == 0:  # counted from the last turn, which must not repeat anything
            return ()
        known = [deep for half in self.told.halves for deep in self._deep if deep.half is half]
        return tuple(known) if len(known) == len(self.told.halves) else ()

    def keep(self, deep: Sequence[Deep]) -> None:
        """What the deep blocks said at this turn, if it may be repeated."""
        if self.deep_every > 1:
            self._deep = tuple(deep)

    @property
    def shape(self) -> Hashable:
        """Pictures of one group and one shape are the same work for the UNet."""
        return tuple(half.embeddings.shape for half in self.told.halves), self.control is None

    def input(self) -> Tensor:
        """What the UNet sees of the picture at this turn: 1 × channels × height × width."""
        scaled: Tensor = self._scheduler.scale_model_input(self.latents, self.timestep)
        return scaled if self._start.fixed is None else torch.cat([scaled, self._start.fixed], dim=1)

    def residuals(self, sample: Tensor, halves: Sequence[Half]) -> Residuals | None:
        """What guides it by pictures at this turn. ``sample`` is its input, a row for each of ``halves``."""
        if self.control is None:
            return None
        return self.control(sample, self.timestep, halves, self._turn, len(self._timesteps))

    def advance(self, prediction: Tensor) -> None:
        """Take the UNet's answer, one row per half, one turn further."""
        prediction = prediction.float()
        if len(prediction) == 2:
            negative, positive = prediction.chunk(2)
            prediction = negative + self.guidance * (positive - negative)
            if self._rescale:
                prediction = rescaled(prediction, positive, self._rescale)
        timestep = self.timestep
        seen = self._scheduler.scale_model_input(self.latents, timestep)
        self._answer = _Answer(seen, prediction, timestep)
        latents = self._scheduler.step(prediction, timestep, self.latents, return_dict=False, **self._randomness)[0]
        self._turn += 1
        self.latents = self._start.blend(self._scheduler, self._noise, self._timesteps[self._turn :], latents)
        if self.done or (self._turn > self._warm_up and (self._turn - self._warm_up) % self._scheduler.order == 0):
            self.step += 1

    def estimate(self) -> Tensor:
        """The picture as it would be if the last answer were right: latents without noise, 1 × 4 × height × width.

        By the forward process, x = √ᾱ · picture + √(1 − ᾱ) · noise, whose noise the UNet predicts, or v = √ᾱ · noise −
        √(1 − ᾱ) · picture (arXiv 2202.00512), or the picture itself.
        """
        if self._answer is None:
            return self.latents
        seen, prediction = self._answer.seen, self._answer.prediction
        signal = self._scheduler.alphas_cumprod[int(self._answer.timestep.round())].to(seen)
        alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
        estimate: Tensor
        match self._scheduler.config.prediction_type:
            case "v_prediction":
                estimate = alpha * seen - sigma * prediction
            case "sample":
                estimate = prediction
            case _:
                estimate = (seen - sigma * prediction) / alpha
        return estimate


def rescaled(guided: Tensor, positive: Tensor, share: float) -> Tensor:
    """Guidance without its excess of contrast (arXiv 2305.08891, section 3.4): the guided prediction, a ``share`` of it
    brought to the standard deviation of the one without guidance."""
    axes = list(range(1, guided.ndim))
    scale = positive.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return share * guided * scale + (1 - share) * guided


def predict(unet: Any, pictures: Sequence[Picture]) -> list[Tensor]:
    """The UNet's answers for the turn that each picture is at: one row for each half of its conditioning.

    As few calls as can be: rows that are told equally many tokens share one, but for those of a picture with guides,
    which are computed for its rows alone, and those that repeat what the deep blocks said.
    """
    dtype = next(unet.parameters()).dtype  # unet.dtype goes through every module: milliseconds, at every step
    rows = [row for picture in pictures for row in _rows(picture, picture.input().to(dtype))]
    calls: dict[Hashable, list[_Row]] = defaultdict(list)
    for row in rows:
        guided = row.picture if row.picture.control is not None else None
        calls[row.half.embeddings.shape[1], guided, row.repeated is not None].append(row)
    answers: dict[_Row, Tensor] = {}
    said: dict[Picture, list[Deep]] = defaultdict(list)
    for own in calls.values():
        answer, deep = _call(unet, own)
        answers.update(zip(own, torch.chunk(answer, len(own)), strict=True))
        for row, its in zip(own, deep, strict=False):  # there is none of what is exact
            said[row.picture].append(its)
    for picture, all_its in said.items():
        picture.keep(all_its)
    return [torch.cat([answers[row] for row in rows if row.picture is picture]) for picture in pictures]


@dataclass(frozen=True, eq=False)
class _Row:
    """A half of a picture that is to be predicted. ``sample`` 1 × channels × height × width."""

    picture: Picture
    half: Half
    sample: Tensor
    repeated: Deep | None


def _rows(picture: Picture, sample: Tensor) -> list[_Row]:
    return [
        _Row(picture, half, sample, repeated) for half, repeated in zip_longest(picture.told.halves, picture.repeated)
    ]


def arguments(unet: Any, picture: Picture) -> dict[str, Any]:
    """What ``parts`` is asked at the picture's turn, when it is alone."""
    return _given(unet, _rows(picture, picture.input().to(next(unet.parameters()).dtype)))


def _given(unet: Any, rows: Sequence[_Row]) -> dict[str, Any]:
    """The arguments of one call, as ``parts`` takes them."""
    halves = [row.half for row in rows]
    sample = torch.cat([row.sample for row in rows])
    repeated = [row.repeated for row in rows if row.repeated is not None]
    if repeated:
        residuals = stacked([deep.residuals for deep in repeated if deep.residuals is not None])
    else:
        residuals = rows[0].picture.residuals(sample, halves)
    return {
        "sample": sample,
        "timestep": torch.stack([row.picture.timestep.float() for row in rows]),
        "embeddings": torch.cat([half.embeddings for half in halves]),
        "added": {
            "text_embeds": torch.cat([half.pooled for half in halves]),
            "time_ids": torch.cat([half.sizes for half in halves]),
        },
        "timestep_cond": guidance_embedding(unet, [row.picture.guidance for row in rows], sample),
        "residuals": residuals,
        "deep": torch.cat([deep.answer for deep in repeated]) if repeated else None,
    }


def _call(unet: Any, rows: Sequence[_Row]) -> tuple[Tensor, list[Deep]]:
    """One call of the UNet: its answer, and what its deep blocks said of each row, where that can be told."""
    parts, given = rows[0].picture.parts, _given(unet, rows)
    residuals = given["residuals"]
    if parts is None:
        answer = unet(
            given["sample"],
            given["timestep"],
            encoder_hidden_states=given["embeddings"],
            added_cond_kwargs=given["added"],
            timestep_cond=given["timestep_cond"],
            return_dict=False,
            **(residuals.named if residuals is not None else {}),
        )[0]
        return answer, []
    answer, said = parts(**given)
    if given["deep"] is not None:
        return answer, []
    each = residuals.rows if residuals is not None else [None] * len(rows)
    halves = [row.half for row in rows]
    return answer, [Deep(*its) for its in zip(halves, torch.chunk(said, len(rows)), each, strict=True)]


def guidance_embedding(unet: Any, guidance: Sequence[float], sample: Tensor) -> Tensor | None:
    """What a UNet with distilled guidance is told of it, a row each (latent consistency models, arXiv 2310.04378); or
    ``None``. On the device and in the dtype of the ``sample``."""
    width = unet.config.time_cond_proj_dim
    if width is None:
        return None
    scale = torch.tensor([(value - 1) * 1000.0 for value in guidance])
    embedding: Tensor = get_timestep_embedding(scale, width, downscale_freq_shift=1)
    return embedding.to(sample)


def denoise(unet: Any, picture: Picture) -> Iterator[int]:
    """One picture alone, to its end. Yields between the steps: how many are done."""
    while not picture.done:
        before = picture.step
        # Not around the yield: the mode would leak to whoever asks for the next step.
        with torch.inference_mode(), picture.worn():
            picture.advance(predict(unet, [picture])[0])
        if picture.step > before:
            yield picture.step
