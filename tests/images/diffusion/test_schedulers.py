"""Parity of every sampler and schedule, in float32 on a tiny random UNet with the same noise.

Against diffusers' own pipeline where it has the pair, else against the published formulas in ``formulas``.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor

from illustrious.errors import InvalidRequest
from illustrious.images.diffusion.samplers import METHODS, Sampler, choose, sampler
from illustrious.images.diffusion.schedules import SCHEDULES
from tests.images.diffusion import formulas
from tests.images.diffusion.test_samplers import documented

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value."""

SEED = 7
PIXELS = 8
LATENT = (1, 4, 8, 8)

SDXL = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
MODELS = {
    "eps": SDXL,
    "v": {**SDXL, "prediction_type": "v_prediction"},
    "v with zero SNR": {
        **SDXL,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
}
"""What the scheduler of a model of each kind says. The UNet is the same: of random weights, it predicts anything."""

METHOD = {method.name: method for method in METHODS}
SCHEDULE = {schedule.name: schedule for schedule in SCHEDULES}

WITHOUT_LIBRARIES = {"LMS", "DPM++ SDE"}
"""For these diffusers wants scipy and torchsde."""

CORRECTED = {"DPM++ 3M SDE"}
"""In this one diffusers has a slip."""


def own(model: str) -> Sampler:
    return sampler("EulerDiscreteScheduler", MODELS[model])


def chosen(model: str, name: str, schedule: str = "Automatic") -> Sampler:
    return choose(own(model), name, schedule)[0]


def begin(scheduler: Any, steps: int) -> None:
    scheduler.set_timesteps(steps, device="cpu")
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)


def turn(
    scheduler: Any, number: int, latents: Tensor, predict: Callable[..., Tensor], noise: torch.Generator
) -> Tensor:
    """One evaluation and what the scheduler makes of it."""
    timestep = scheduler.timesteps[number]
    prediction = predict(scheduler.scale_model_input(latents, timestep), timestep)
    takes_noise = "generator" in inspect.signature(scheduler.step).parameters
    further = {"generator": noise} if takes_noise else {}
    stepped: Tensor = scheduler.step(prediction, timestep, latents, return_dict=False, **further)[0]
    return stepped


def drawn(
    used: Any, steps: int, predict: Callable[..., Tensor], seed: int = SEED, shape: tuple[int, ...] = LATENT
) -> Tensor:
    """Final latents of our own loop."""
    noise = torch.Generator().manual_seed(seed)
    scheduler = used.scheduler()
    begin(scheduler, steps)
    latents = torch.randn(shape, generator=noise) * scheduler.init_noise_sigma
    for number in range(len(scheduler.timesteps)):
        latents = turn(scheduler, number, latents, predict, noise)
    return latents


class Reference:
    """diffusers' pipeline around a tiny random UNet, told the same at every call."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=LATENT[-1],
            block_out_channels=(16,),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",),
            mid_block_type=None,
            up_block_types=("CrossAttnUpBlock2D",),
            transformer_layers_per_block=1,
            attention_head_dim=2,
            cross_attention_dim=16,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16,
            norm_num_groups=4,
        ).eval()
        unet.conv_out.weight.data *= 3  # predictions of about the size of noise
        self.embeddings, self.pooled = torch.randn(1, 6, 16), torch.randn(1, 16)
        self.pipeline: Any = StableDiffusionXLPipeline(
            vae=AutoencoderKL(block_out_channels=(4,), norm_num_groups=2),
            unet=unet,
            text_encoder=None,
            text_encoder_2=None,
            tokenizer=None,
            tokenizer_2=None,
            scheduler=diffusers.EulerDiscreteScheduler(),
            add_watermarker=False,
        )
        self.pipeline.set_progress_bar_config(disable=True)

    @torch.inference_mode()
    def predict(self, latents: Tensor, timestep: Any) -> Tensor:
        sizes = torch.tensor([[PIXELS, PIXELS, 0, 0, PIXELS, PIXELS]], dtype=torch.float32)
        prediction: Tensor = self.pipeline.unet(
            latents,
            timestep,
            encoder_hidden_states=self.embeddings,
            added_cond_kwargs={"text_embeds": self.pooled, "time_ids": sizes},
            return_dict=False,
        )[0]
        return prediction

    def by_diffusers(self, scheduler: Any, steps: int) -> Tensor:
        self.pipeline.scheduler = scheduler
        latents: Tensor = self.pipeline(
            prompt_embeds=self.embeddings,
            pooled_prompt_embeds=self.pooled,
            num_inference_steps=steps,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(SEED),
            height=PIXELS,
            width=PIXELS,
            eta=0.3 if isinstance(scheduler, diffusers.TCDScheduler) else 0.0,  # else it gets 0 for TCD's own default
            output_type="latent",
        ).images
        return latents

    def by_formulas(
        self, model: str, name: str, spaced: Callable[..., list[tuple[float, float]]], steps: int
    ) -> Tensor:
        config = MODELS[model]
        table = formulas.scaled_linear(zero_snr=bool(config.get("rescale_betas_zero_snr")))
        levels = spaced(table, steps)
        timesteps = dict(levels)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            timestep = timesteps.get(sigma, np.interp(np.log(sigma), np.log(table), np.arange(len(table))))
            scale = (sigma**2 + 1) ** 0.5
            prediction = self.predict((x / scale).float(), torch.tensor(timestep, dtype=torch.float32)).double()
            if config["prediction_type"] == "epsilon":
                return x - sigma * prediction
            return x / scale**2 - sigma / scale * prediction

        generator = torch.Generator().manual_seed(SEED)
        highest = levels[0][0]
        # The leading convention counts a latent's own variance of 1, as do diffusers' multistep samplers always.
        counted = spaced is formulas.leading or name.startswith(("DPM++ 2M", "DPM++ 3M"))
        x = torch.randn(LATENT, generator=generator).double() * ((highest**2 + 1) ** 0.5 if counted else highest)
        sigmas = [*(sigma for sigma, _ in levels), 0.0]
        return formulas.SAMPLERS[name](denoise, x, sigmas, lambda: torch.randn(LATENT, generator=generator))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


def assert_same(mine: Tensor, reference: Tensor) -> None:
    assert torch.isfinite(mine).all()
    assert float((mine - reference).abs().max() / reference.abs().max()) <= TOLERANCE


# Parity


def by_diffusers_class(model: str, name: str, **further: Any) -> Any:
    method = METHOD[name]
    return getattr(diffusers, method.kind).from_config({**MODELS[model], **method.options, **further})


def zero_snr_allows(name: str, schedule: str = "Automatic") -> bool:
    return name not in {"Heun", "DPM2", "DPM2 a", "PLMS"} and schedule not in {"Karras", "Exponential", "Beta"}


IN_DIFFUSERS = [name for name in METHOD if name not in WITHOUT_LIBRARIES | CORRECTED]

DEFAULTS = [
    (model, name)
    for model in MODELS
    for name in METHOD
    if model != "v with zero SNR" or zero_snr_allows(name)
]  # fmt: skip


@pytest.mark.parametrize(("model", "name"), [pair for pair in DEFAULTS if pair[1] in IN_DIFFUSERS])
def test_every_sampler_at_its_default_schedule_draws_what_diffusers_draws(
    reference: Reference, model: str, name: str
) -> None:
    for steps in (1, 6):
        mine = drawn(chosen(model, name), steps, reference.predict)
        assert_same(mine, reference.by_diffusers(by_diffusers_class(model, name), steps))


@pytest.mark.parametrize(("model", "name"), [pair for pair in DEFAULTS if pair[1] not in IN_DIFFUSERS])
def test_a_sampler_that_diffusers_lacks_or_has_wrong_follows_the_formulas(
    reference: Reference, model: str, name: str
) -> None:
    spaced = formulas.trailing if model == "v with zero SNR" else formulas.leading
    if name == "DPM++ 3M SDE" and spaced is formulas.leading:
        spaced = formulas.leading_by_one_more
    for steps in (1, 2, 15):
        mine = drawn(chosen(model, name), steps, reference.predict)
        assert_same(mine, reference.by_formulas(model, name, spaced, steps))


@pytest.mark.parametrize("name", ["DPM++ 2M", "DPM++ 2M SDE", "DPM++ 3M", "UniPC"])
def test_multistep_samplers_keep_their_order_to_the_end_of_many_steps_as_in_diffusers(
    reference: Reference, name: str
) -> None:
    mine = drawn(chosen("eps", name), 16, reference.predict)
    assert_same(mine, reference.by_diffusers(by_diffusers_class("eps", name), 16))


KNOWN_TO_DIFFUSERS = {
    "Karras": {"use_karras_sigmas": True, "timestep_spacing": "linspace"},
    "Exponential": {"use_exponential_sigmas": True, "timestep_spacing": "linspace"},
    "Normal": {"timestep_spacing": "linspace"},
    "Trailing": {"timestep_spacing": "trailing"},
}


def known_to_diffusers(name: str, schedule: str) -> bool:
    if METHOD[name].over != "sigmas":
        return METHOD[name].over == "timesteps" and schedule == "Trailing"
    return name in IN_DIFFUSERS and schedule in KNOWN_TO_DIFFUSERS and SCHEDULE[schedule] not in METHOD[name].lacks


@pytest.mark.parametrize(
    ("name", "schedule"),
    [(name, schedule) for name in METHOD for schedule in SCHEDULE if known_to_diffusers(name, schedule)],
)
def test_a_schedule_that_diffusers_knows_draws_what_diffusers_draws(
    reference: Reference, name: str, schedule: str
) -> None:
    for model in MODELS:
        if model != "v with zero SNR" or zero_snr_allows(name, schedule):
            theirs = by_diffusers_class(model, name, **KNOWN_TO_DIFFUSERS[schedule])
            mine = drawn(chosen(model, name, schedule), 5, reference.predict)
            assert_same(mine, reference.by_diffusers(theirs, 5))


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        (name, schedule)
        for name in formulas.SAMPLERS
        for schedule in formulas.SCHEDULES
        if not known_to_diffusers(name, schedule)
    ],
)
def test_a_pair_that_diffusers_lacks_follows_the_formulas(reference: Reference, name: str, schedule: str) -> None:
    spaced = formulas.SCHEDULES[schedule]
    if name == "DPM++ 3M SDE" and schedule in ("Karras", "Exponential"):
        # Here diffusers has the schedule, and keeps whole timesteps.
        # (Cut off, not rounded, in the other; and 999 is computed as a little less.)
        spaced = formulas.whole(
            spaced, round if schedule == "Karras" else lambda timestep: int(max(timestep - 1e-6, 0))
        )
    for model in MODELS:
        if model != "v with zero SNR" or zero_snr_allows(name, schedule):
            mine = drawn(chosen(model, name, schedule), 5, reference.predict)
            assert_same(mine, reference.by_formulas(model, name, spaced, 5))


@pytest.mark.parametrize("schedule", ["SGM Uniform", "Simple", "Normal", "Beta"])
def test_unipc_steps_over_any_levels_as_diffusers_does_when_they_are_put_into_it(
    reference: Reference, schedule: str
) -> None:
    levels = formulas.SCHEDULES[schedule](formulas.scaled_linear(), 5)

    class Told(diffusers.UniPCMultistepScheduler):
        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
            super().set_timesteps(num_inference_steps, device)
            self.sigmas = torch.tensor([*(sigma for sigma, _ in levels), 0.0])
            self.timesteps = torch.tensor([timestep for _, timestep in levels])

    mine = drawn(chosen("eps", "UniPC", schedule), 5, reference.predict)
    assert_same(mine, reference.by_diffusers(Told.from_config(SDXL), 5))


# What a schedule and a sampler are for


def gaussian(model: str, mean: float, deviation: float) -> Callable[[Tensor, Tensor], Tensor]:
    """What the perfect model of pictures whose every number is normally distributed predicts."""
    zero_snr = bool(MODELS[model].get("rescale_betas_zero_snr"))
    logarithms = np.log(formulas.scaled_linear(zero_snr))

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        sigma = float(np.exp(np.interp(float(timestep), np.arange(1000), logarithms)))
        signal = (sigma**2 + 1) ** -0.5
        clean = (deviation**2 * latents / signal + sigma**2 * mean) / (deviation**2 + sigma**2)
        if MODELS[model]["prediction_type"] == "epsilon":
            return (latents - signal * clean) / (sigma * signal)
        return (signal * latents - clean) / (sigma * signal)

    return predict


@pytest.mark.parametrize("model", ["eps", "v with zero SNR"])
@pytest.mark.parametrize("name", [name for name, method in METHOD.items() if method.over != "distilled"])
def test_a_pair_without_a_warning_draws_the_distribution_and_one_with_a_warning_does_not(name: str, model: str) -> None:
    for schedule in SCHEDULE:
        try:
            used, warnings = choose(own(model), name, schedule)
        except InvalidRequest:
            continue  # not offered
        latents = drawn(used, 50, gaussian(model, mean=1.0, deviation=0.6), shape=(1, 4, 32, 32))
        right = abs(float(latents.mean()) - 1.0) < 0.1 and abs(float(latents.std()) - 0.6) < 0.2
        overshoots = any("overshoots" in warning for warning in warnings)
        assert right != overshoots, f"{schedule}: {latents.mean():.2f} ± {latents.std():.2f}, {warnings}"


def test_diffusers_own_third_order_sde_does_not_come_to_rest_but_the_corrected_one_does() -> None:
    def error(scheduler: Any, steps: int) -> float:
        latents = drawn(scheduler, steps, gaussian("eps", mean=0.0, deviation=0.6), shape=(1, 4, 64, 64))
        return abs(float(latents.std()) - 0.6)

    class Theirs:
        def scheduler(self) -> Any:
            return by_diffusers_class("eps", "DPM++ 3M SDE")

    assert error(Theirs(), 100) > 0.04
    assert error(chosen("eps", "DPM++ 3M SDE"), 100) < 0.01


# What the loop relies on


@pytest.mark.parametrize("steps", [1, 2, 28, 61, 103, 121, 122, 150])
@pytest.mark.parametrize("name", ["Euler", "Euler a", "Heun", "DPM++ 2M", "DPM++ SDE", "UniPC", "LMS", "DDIM", "DDPM"])
def test_as_many_steps_are_taken_as_asked_for(name: str, steps: int) -> None:
    # diffusers takes 62 trailing steps for 61, and the last at timestep −1.
    for model, schedule in (("eps", "Automatic"), ("v", "Trailing"), ("v with zero SNR", "Automatic")):
        if model != "v with zero SNR" or zero_snr_allows(name):
            scheduler = chosen(model, name, schedule).scheduler()
            scheduler.set_timesteps(steps, device="cpu")
            assert len(scheduler.timesteps) == steps * scheduler.order - (scheduler.order - 1)
            assert scheduler.timesteps.min() >= 0


@pytest.mark.parametrize("name", METHOD)
def test_two_pictures_in_turns_are_each_what_they_are_alone(reference: Reference, name: str) -> None:
    used = chosen("v", name, "Trailing")
    alone = [drawn(used, steps, reference.predict, seed) for steps, seed in ((5, 1), (4, 2))]
    schedulers, noises = [used.scheduler(), used.scheduler()], [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    for scheduler, steps in zip(schedulers, (5, 4), strict=True):
        begin(scheduler, steps)
    together = [
        torch.randn(LATENT, generator=noise) * scheduler.init_noise_sigma
        for scheduler, noise in zip(schedulers, noises, strict=True)
    ]
    for number in range(len(schedulers[0].timesteps)):
        for picture, scheduler in enumerate(schedulers):
            if number < len(scheduler.timesteps):
                together[picture] = turn(scheduler, number, together[picture], reference.predict, noises[picture])
    assert torch.equal(together[0], alone[0])
    assert torch.equal(together[1], alone[1])


@pytest.mark.parametrize("name", METHOD)
def test_all_randomness_comes_from_the_generator(reference: Reference, name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = drawn(chosen("eps", name), 4, reference.predict)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn(chosen("eps", name), 4, reference.predict), first)
    assert not torch.equal(drawn(chosen("eps", name), 4, reference.predict, seed=SEED + 1), first)


@pytest.mark.parametrize("name", METHOD)
def test_a_sampler_adds_noise_at_every_step_but_the_last_if_it_is_documented_to(
    reference: Reference, name: str
) -> None:
    noise = torch.Generator().manual_seed(SEED)
    scheduler = chosen("eps", name).scheduler()
    begin(scheduler, 4)
    latents = torch.randn(LATENT, generator=noise) * scheduler.init_noise_sigma
    noisy = []
    for number in range(len(scheduler.timesteps)):
        ends = [
            turn(copy.deepcopy(scheduler), number, latents, reference.predict, torch.Generator().manual_seed(seed))
            for seed in (1, 2)
        ]
        noisy.append(not torch.equal(*ends))
        latents = turn(scheduler, number, latents, reference.predict, noise)
    if any(row[0] == name and row[-1] == "yes" for row in documented()):
        # Of second-order samplers, every other turn is the first half of a step.
        assert noisy[scheduler.order - 1 : -1 : scheduler.order] == [True] * 3
        assert not noisy[-1]
    else:
        assert not any(noisy)


@pytest.mark.parametrize("schedule", ["Automatic", "SGM Uniform"])
@pytest.mark.parametrize("name", ["Euler", "Heun", "DPM2"])
def test_a_picture_may_begin_in_the_middle_of_the_schedule(reference: Reference, name: str, schedule: str) -> None:
    used, steps, skipped = chosen("eps", name, schedule), 6, 2
    whole, noise = used.scheduler(), torch.Generator().manual_seed(SEED)
    begin(whole, steps)
    latents = torch.randn(LATENT, generator=noise) * whole.init_noise_sigma
    for number in range(skipped * whole.order):
        latents = turn(whole, number, latents, reference.predict, noise)
    rest = used.scheduler()
    begin(rest, steps)
    rest.set_begin_index(skipped * rest.order)
    resumed = latents
    for number in range(skipped * rest.order, len(rest.timesteps)):
        latents = turn(whole, number, latents, reference.predict, noise)
        resumed = turn(rest, number, resumed, reference.predict, noise)
    assert torch.equal(resumed, latents)


@pytest.mark.parametrize("schedule", ["Automatic", "Karras", "Simple"])
@pytest.mark.parametrize("name", [name for name, method in METHOD.items() if method.over == "sigmas"])
def test_noise_is_added_at_the_level_of_the_step_that_comes_next(name: str, schedule: str) -> None:
    scheduler = chosen("eps", name, schedule).scheduler()
    begin(scheduler, 6)
    first = 2 * scheduler.order
    scheduler.set_begin_index(first)
    timestep = scheduler.timesteps[first : first + 1]
    noisy = scheduler.add_noise(torch.zeros(LATENT), torch.ones(LATENT), timestep)
    level = scheduler.scale_model_input(noisy, timestep[0])  # √(1 − kept variance)
    table = formulas.scaled_linear()
    sigma = np.exp(np.interp(float(timestep), np.arange(1000), np.log(table)))
    # Whole timesteps are off by up to one.
    assert float(level.mean()) == pytest.approx(sigma / (sigma**2 + 1) ** 0.5, rel=0.01)


@pytest.mark.parametrize("name", ["LCM", "TCD"])
def test_steps_that_a_distilled_model_does_not_have_are_the_requests_fault(name: str) -> None:
    scheduler = chosen("eps", name).scheduler()
    scheduler.set_timesteps(50)
    with pytest.raises(InvalidRequest, match="at most 50 steps, not 51 steps") as refused:
        scheduler.set_timesteps(51)
    assert refused.value.field == "steps"
