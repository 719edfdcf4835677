"""The names people know the schedulers by."""

import pytest

from illustrious.errors import Unavailable
from illustrious.images.diffusion.samplers import sampler


@pytest.mark.parametrize(
    ("kind", "config", "name"),
    [
        ("EulerDiscreteScheduler", {}, "Euler"),
        ("EulerAncestralDiscreteScheduler", {}, "Euler a"),
        ("DPMSolverMultistepScheduler", {}, "DPM++ 2M"),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "DPM++ 2M Karras"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "DPM++ 2M SDE"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}, "DPM++ 3M SDE"),
        ("DDIMScheduler", {}, "DDIM"),
    ],
)
def test_a_scheduler_is_called_what_artists_call_it(kind: str, config: dict[str, object], name: str) -> None:
    used = sampler(kind, config)
    assert used.name == name
    assert type(used.scheduler()).__name__ == kind


def test_an_unknown_scheduler_is_refused_by_name() -> None:
    with pytest.raises(Unavailable, match="DreamScheduler"):
        sampler("DreamScheduler", {})
