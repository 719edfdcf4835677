"""Which diffusers scheduler steps a picture, and what people call it."""

from dataclasses import dataclass
from typing import Any

import diffusers

from illustrious.errors import Unavailable

NAMES = {
    "EulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "HeunDiscreteScheduler": "Heun",
    "KDPM2DiscreteScheduler": "DPM2",
    "KDPM2AncestralDiscreteScheduler": "DPM2 a",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "UniPCMultistepScheduler": "UniPC",
    "PNDMScheduler": "PLMS",
    "DDIMScheduler": "DDIM",
    "DDPMScheduler": "DDPM",
    "LCMScheduler": "LCM",
    "TCDScheduler": "TCD",
}
"""Scheduler class → the name AUTOMATIC1111's web UI gives its algorithm."""


@dataclass(frozen=True)
class Sampler:
    """A scheduler class with its configuration. Every picture gets a scheduler of its own."""

    kind: str
    config: dict[str, Any]

    @property
    def name(self) -> str:
        name = NAMES[self.kind]
        if self.kind == "DPMSolverMultistepScheduler":
            order = self.config.get("solver_order", 2)
            name = "DPM++ 3M" if order == 3 else "DPM++ 2M"
            name += " SDE" if str(self.config.get("algorithm_type", "")).startswith("sde") else ""
        return f"{name} Karras" if self.config.get("use_karras_sigmas") else name

    def scheduler(self) -> Any:
        return getattr(diffusers, self.kind).from_config(self.config)


def sampler(kind: str, config: dict[str, Any]) -> Sampler:
    """Raises ``Unavailable`` for a scheduler this engine does not know."""
    if kind not in NAMES:
        raise Unavailable(
            f"This model asks for the scheduler {kind}, which this engine does not know. "
            "Put EulerDiscreteScheduler in its scheduler/scheduler_config.json, or choose another with --model."
        )
    return Sampler(kind, config)
