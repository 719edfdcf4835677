"""Samplers by the names artists know, and with which schedules they go.

A *sampler* is the algorithm (Euler a), a *schedule* the spacing of the noise levels it steps over (Karras). Requests
name either, both or none, in AUTOMATIC1111's words or in those of k-diffusion, ComfyUI, InvokeAI or diffusers, and
also fused ("DPM++ 2M Karras"). Read where there is no torch: only ``Sampler.scheduler`` imports it.

*Automatic* is the model's own spacing, which is the convention of its family:

=========================================  =================================  =====================================
family                                     spacing of the timesteps           because
=========================================  =================================  =====================================
SDXL and its finetunes (Pony,              leading, ``steps_offset`` 1        published so with SDXL
Illustrious, NoobAI eps)
v-prediction with zero terminal SNR        trailing                           the first step must be the last
(NoobAI v)                                                                    timestep, the only one without signal
a diffusers folder, the starter model      what its scheduler_config.json     its maker knows
                                           says (starter: trailing)
=========================================  =================================  =====================================

Karras, exponential, beta, normal, SGM uniform and simple go over the model's whole range of noise, whatever its own
spacing; ``schedules`` has the formulas. Where diffusers has the pair, it computes it.
"""

import inspect
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

from illustrious.catalog.folder import read_json
from illustrious.catalog.prediction import Prediction
from illustrious.errors import InvalidRequest, Unavailable
from illustrious.images.diffusion.schedules import (
    AUTOMATIC,
    BETA,
    DISTILLED_STEPS,
    EXPONENTIAL,
    KARRAS,
    NORMAL,
    SCHEDULES,
    SGM_UNIFORM,
    SIMPLE,
    TRAILING,
    Schedule,
    check_selection,
)


@dataclass(frozen=True)
class Method:
    """A sampling algorithm: AUTOMATIC1111's ``name``, the ``kind`` of diffusers scheduler and its ``options``.

    ``over`` is what it steps over: ``sigmas``, for which there are all schedules; ``timesteps``, whole ones, which
    diffusers alone spaces; or a ``distilled`` model's own few. ``lacks`` are schedules diffusers has no spacing of, for
    this kind; with those it ``overshoots``, it leaves noise in the picture. ``zero_snr``: it can start from noise
    without any signal. ``clean``: it takes models that predict the picture itself.
    """

    name: str
    kind: str
    aliases: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    over: Literal["sigmas", "timesteps", "distilled"] = "sigmas"
    lacks: tuple[Schedule, ...] = ()
    overshoots: tuple[Schedule, ...] = ()
    zero_snr: bool = True
    clean: bool = True


MULTISTEP = "DPMSolverMultistepScheduler"
DPMPP_2M = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
DPMPP_2M_SDE = {**DPMPP_2M, "algorithm_type": "sde-dpmsolver++"}
LATENT = {"clip_sample": False}
"""Nothing holds latents between −1 and 1, where these schedulers clip pixels unless told otherwise."""

METHODS = (
    Method("Euler", "EulerDiscreteScheduler", ("k_euler",)),
    Method(
        "Euler a",
        "EulerAncestralDiscreteScheduler",
        ("k_euler_a", "k_euler_ancestral"),
        lacks=(KARRAS, EXPONENTIAL, BETA),
        clean=False,
    ),
    Method("Heun", "HeunDiscreteScheduler", ("k_heun",), zero_snr=False),
    Method("DPM2", "KDPM2DiscreteScheduler", ("k_dpm_2", "kdpm_2"), zero_snr=False, clean=False),
    Method(
        "DPM2 a",
        "KDPM2AncestralDiscreteScheduler",
        ("k_dpm_2_a", "k_dpm_2_ancestral", "kdpm_2_a"),
        zero_snr=False,
        clean=False,
    ),
    Method("DPM++ 2M", MULTISTEP, ("k_dpmpp_2m",), DPMPP_2M, lacks=(NORMAL,)),
    Method("DPM++ 2M SDE", MULTISTEP, ("k_dpmpp_2m_sde",), DPMPP_2M_SDE, lacks=(NORMAL,)),
    Method(
        "DPM++ 2M SDE Heun",
        MULTISTEP,
        ("k_dpmpp_2m_sde_heun",),
        {**DPMPP_2M_SDE, "solver_type": "heun"},
        lacks=(NORMAL,),
    ),
    Method("DPM++ 3M", MULTISTEP, ("dpmpp_3m",), {**DPMPP_2M, "solver_order": 3}, lacks=(NORMAL,)),
    Method(
        "DPM++ 3M SDE",
        MULTISTEP,
        ("k_dpmpp_3m_sde",),
        {**DPMPP_2M_SDE, "solver_order": 3},
        lacks=(NORMAL,),
        overshoots=(NORMAL,),
    ),
    Method("DPM++ SDE", "DPMSolverSDEScheduler", ("k_dpmpp_sde",)),
    Method("UniPC", "UniPCMultistepScheduler", ("uni_pc", "uni_pc_bh2"), lacks=(NORMAL,)),
    Method("LMS", "LMSDiscreteScheduler", ("k_lms",)),
    Method("DDIM", "DDIMScheduler", ("ddim",), LATENT, over="timesteps"),
    Method("DDPM", "DDPMScheduler", ("ddpm",), LATENT, over="timesteps"),
    Method(
        "PLMS",
        "PNDMScheduler",
        ("plms", "pndm"),
        {"skip_prk_steps": True},
        over="timesteps",
        zero_snr=False,
        clean=False,
    ),
    Method("LCM", "LCMScheduler", ("lcm", "k_lcm"), LATENT, over="distilled"),
    Method("TCD", "TCDScheduler", ("tcd",), LATENT, over="distilled"),
)

NAMES = {method.kind: method.name for method in reversed(METHODS)}
"""Kind of scheduler → the name of its algorithm, in its plainest form."""

OF_THE_MODEL = {
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "set_alpha_to_one",
    "original_inference_steps",
    "timestep_scaling",
}
"""What in a scheduler's configuration is about the model, and so holds for whichever sampler is chosen."""

FLAGS = {KARRAS: "use_karras_sigmas", EXPONENTIAL: "use_exponential_sigmas", BETA: "use_beta_sigmas"}
"""diffusers' words for schedules."""

OURS = {SGM_UNIFORM, SIMPLE, BETA, TRAILING}
"""Spaced here for every sampler: diffusers has none of the first two, wants scipy for beta, and miscounts the last (61
trailing steps are 62 there)."""


@dataclass(frozen=True)
class Sampler:
    """A method and a schedule, with the ``config`` of the diffusers scheduler that does both on one model."""

    method: Method
    spaced: Schedule
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """AUTOMATIC1111's name of the algorithm."""
        return self.method.name

    @property
    def schedule(self) -> str:
        """AUTOMATIC1111's label of the schedule; ``Automatic`` is the model's own spacing."""
        return self.spaced.name

    @property
    def kind(self) -> str:
        """The diffusers scheduler's class name."""
        return self.method.kind

    def check(self, steps: int) -> None:
        """Raises ``InvalidRequest`` for a number of steps it cannot take."""
        if self.method.over == "distilled":
            check_selection(steps, self.config.get("original_inference_steps", DISTILLED_STEPS))

    def scheduler(self) -> Any:
        """A fresh scheduler with diffusers' protocol, for one picture. Its ``set_timesteps`` raises ``InvalidRequest``
        for a number of steps it cannot take."""
        from illustrious.images.diffusion import schedulers

        kind, spacing, config = getattr(schedulers, self.kind), self._spacing(), self.config
        if spacing is not None:
            config = {**config, **_flags(EXPONENTIAL)}
        known = inspect.signature(kind.__init__).parameters
        scheduler = kind(**{key: value for key, value in config.items() if key in known})
        if spacing is not None:
            scheduler.spacing = spacing
        return scheduler

    def _spacing(self) -> Schedule | None:
        """The schedule, where it is not for diffusers to space the steps."""
        if self.method.over != "sigmas":
            return None
        spaced = self.spaced
        if spaced is AUTOMATIC and self.config.get("timestep_spacing") == "trailing":
            spaced = TRAILING
        return spaced if spaced in OURS or spaced in self.method.lacks else None


def sampler(kind: str, config: dict[str, Any]) -> Sampler:
    """What a model's own configuration says. Raises ``Unavailable`` for a scheduler this engine does not know."""
    methods = [method for method in METHODS if method.kind == kind]
    if not methods:
        raise Unavailable(
            f"This model asks for the scheduler {kind}, which this engine does not know. "
            "Put EulerDiscreteScheduler in its scheduler/scheduler_config.json, or choose another with --model."
        )
    told = {**methods[0].options, **config}
    method = next(
        (method for method in methods if all(told[key] == value for key, value in method.options.items())), methods[0]
    )
    flagged = [schedule for schedule, flag in FLAGS.items() if config.get(flag) and schedule not in method.lacks]
    return Sampler(method, flagged[0] if flagged and method.over == "sigmas" else AUTOMATIC, config)


def of_file(name: str, said: Prediction) -> Sampler:
    """That of a single-file checkpoint: Euler, as SDXL itself was published with. Raises ``Unavailable``."""
    if said.is_edm:
        raise Unavailable(
            f"{name} predicts as EDM models do, which this engine does not draw with. Choose another with --model."
        )
    config = json.loads((files("illustrious") / "data" / "sdxl" / "scheduler.json").read_text("utf-8"))
    config["prediction_type"] = said.type
    if said.zero_snr:
        config.update(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    return sampler("EulerDiscreteScheduler", config)


def of_folder(path: Path) -> Sampler:
    """That of a folder in diffusers' layout, which says so itself. Raises ``Unavailable``."""
    config = read_json(path / "scheduler" / "scheduler_config.json")
    return sampler(str(config.get("_class_name")), config)


def choose(default: Sampler, sampler: str | None, schedule: str | None) -> tuple[Sampler, tuple[str, ...]]:
    """The sampler for a request on a model whose own is ``default``, and warnings.

    ``schedule`` unset or ``Automatic`` is the model's own. Raises ``InvalidRequest`` for a name that does not exist,
    and for a pair that would spoil the picture.
    """
    method, wanted = default.method, AUTOMATIC
    if sampler is not None:
        method, wanted = _method(sampler)
    if schedule is not None:
        named = _schedule(schedule)
        if AUTOMATIC not in (named, wanted) and named is not wanted:
            raise InvalidRequest(
                f"The sampler “{sampler}” names the schedule {wanted.name}, and the schedule is {named.name}. "
                "Leave one of them out.",
                field="schedule",
            )
        wanted = wanted if named is AUTOMATIC else named
    if method.name == default.name:
        method = default.method
        if wanted in (AUTOMATIC, default.spaced):
            return default, ()
    elif wanted is AUTOMATIC and method.over == "sigmas":
        wanted = default.spaced
    return _paired(default, method, wanted)


def _paired(default: Sampler, method: Method, schedule: Schedule) -> tuple[Sampler, tuple[str, ...]]:
    warnings = []
    if schedule is not AUTOMATIC and method.over == "distilled":
        warnings.append(
            f"{method.name} takes the timesteps its model was distilled to: the schedule {schedule.name} has no effect."
        )
        schedule = AUTOMATIC
    if schedule not in (AUTOMATIC, TRAILING) and method.over == "timesteps":
        warnings.append(
            f"{method.name} steps over whole timesteps and keeps the model's own spacing: the schedule {schedule.name} "
            "has no effect. Euler takes every schedule."
        )
        schedule = AUTOMATIC
    prediction = default.config.get("prediction_type")
    if schedule is KARRAS and prediction == "v_prediction":
        warnings.append(
            "Models with v-prediction, as this one, are often spoilt by the schedule Karras. If the colours are wrong, "
            "choose Automatic or SGM Uniform."
        )
    if schedule in method.overshoots:
        warnings.append(
            f"{method.name} overshoots in the last steps of the schedule {schedule.name} and leaves noise in the "
            "picture. Choose SGM Uniform."
        )
    if default.config.get("rescale_betas_zero_snr"):
        _check_zero_snr(method, AUTOMATIC if schedule is default.spaced else schedule)
    if prediction == "sample" and not method.clean:
        raise InvalidRequest(
            f"{method.name} cannot draw with this model, which predicts the picture itself. Choose Euler.",
            field="sampler",
        )
    if method is default.method:
        config = {**default.config}
    else:
        config = {key: value for key, value in default.config.items() if key in OF_THE_MODEL} | method.options
    if schedule is TRAILING:
        config["timestep_spacing"] = "trailing"
    elif schedule is not AUTOMATIC:
        config["timestep_spacing"] = "linspace"
    return Sampler(method, schedule, {**config, **_flags(schedule)}), tuple(warnings)


def _check_zero_snr(method: Method, schedule: Schedule) -> None:
    """Raises ``InvalidRequest`` for what cannot step over noise without an upper end."""
    if not method.zero_snr:
        able = ", ".join(other.name for other in METHODS if other.zero_snr and other.over == "sigmas")
        raise InvalidRequest(
            f"{method.name} cannot draw with this model, whose pictures begin as noise without any signal (zero "
            f"terminal SNR): it has no step from there. Choose one of {able}.",
            field="sampler",
        )
    if schedule.sigmas is not None:
        able = ", ".join(other.name for other in SCHEDULES if other.sigmas is None)
        raise InvalidRequest(
            f"The schedule {schedule.name} cannot be used with this model, whose noise has no upper end (zero terminal "
            f"SNR): most of its steps would go where there is no picture yet. Choose one of {able}.",
            field="schedule",
        )


def _flags(schedule: Schedule) -> dict[str, bool]:
    return {flag: flagged is schedule for flagged, flag in FLAGS.items()}


# Names


class Names(NamedTuple):
    """Name → aliases, in the order for a list."""

    samplers: dict[str, tuple[str, ...]]
    schedules: dict[str, tuple[str, ...]]


def names() -> Names:
    """All that ``choose`` understands, except that it takes no notice of case, spaces and punctuation."""
    return Names(
        {method.name: method.aliases for method in METHODS},
        {schedule.name: schedule.aliases for schedule in SCHEDULES},
    )


def _key(name: str) -> str:
    """What all spellings of a name have in common: ``DPM++ 2M``, ``sample_dpmpp_2m`` and ``k_dpmpp_2m`` are one."""
    name = re.sub(r"^(?:sample|k)[\s_-]+", "", name.strip().lower())
    return re.sub(r"[\s_-]+", "", name.replace("++", "pp").removesuffix("scheduler"))


METHOD_OF = {
    **{_key(method.kind): method for method in reversed(METHODS)},
    **{_key(name): method for method in METHODS for name in (method.name, *method.aliases)},
}
SCHEDULE_OF = {_key(name): schedule for schedule in SCHEDULES for name in (schedule.name, *schedule.aliases)}


def _method(name: str) -> tuple[Method, Schedule]:
    """The method of a name, and the schedule that is fused to it (``DPM++ 2M Karras``)."""
    key = _key(name)
    if key in METHOD_OF:
        return METHOD_OF[key], AUTOMATIC
    for ending, schedule in SCHEDULE_OF.items():
        if key.endswith(ending) and key.removesuffix(ending) in METHOD_OF:
            return METHOD_OF[key.removesuffix(ending)], schedule
    raise _unknown("sampler", name, [method.name for method in METHODS])


def _schedule(name: str) -> Schedule:
    key = _key(name)
    if key not in SCHEDULE_OF:
        raise _unknown("schedule", name, [schedule.name for schedule in SCHEDULES])
    return SCHEDULE_OF[key]


def _unknown(what: str, name: str, known: Iterable[str]) -> InvalidRequest:
    spelled = {other.lower(): other for other in known}
    near = [spelled[other] for other in get_close_matches(name.lower(), spelled, cutoff=0.5)]
    hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(spelled.values())}."
    return InvalidRequest(f"There is no {what} “{name}”. {hint}", field=what)
