"""How noise levels are spaced, against the published formulas and diffusers' own spacing."""

import math
from itertools import pairwise

import diffusers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from illustrious.images.diffusion.schedules import (
    SCHEDULES,
    Schedule,
    beta_quantile,
    levels,
    sigma_of,
    timestep_of,
    trailing,
)
from tests.images.diffusion import formulas

TABLES = {"SDXL": formulas.scaled_linear().tolist(), "zero SNR": formulas.scaled_linear(zero_snr=True).tolist()}

SPACED = [schedule for schedule in SCHEDULES if schedule.sigmas or schedule.timesteps]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("schedule", SPACED, ids=lambda schedule: schedule.name)
def test_levels_follow_the_formula(schedule: Schedule, table: str) -> None:
    for steps in (1, 2, 3, 20, 50):
        mine = levels(schedule, TABLES[table], steps)
        sigmas, timesteps = zip(*formulas.SCHEDULES[schedule.name](np.array(TABLES[table]), steps), strict=True)
        assert mine.sigmas == pytest.approx(sigmas, rel=1e-6)
        assert mine.timesteps == pytest.approx(timesteps, abs=1e-3)


@given(steps=st.integers(1, 150), schedule=st.sampled_from(SPACED), table=st.sampled_from(sorted(TABLES)))
def test_every_schedule_descends_within_the_model_for_any_number_of_steps(
    steps: int, schedule: Schedule, table: str
) -> None:
    sigmas = TABLES[table]
    mine = levels(schedule, sigmas, steps)
    assert len(mine.sigmas) == len(mine.timesteps) == steps
    assert all(earlier > later for values in (mine.sigmas, mine.timesteps) for earlier, later in pairwise(values))
    assert mine.sigmas[0] == pytest.approx(sigmas[-1])
    assert mine.sigmas[-1] >= sigmas[0] * (1 - 1e-12)
    assert mine.timesteps[0] == pytest.approx(999)
    assert mine.timesteps[-1] >= 0


def test_trailing_timesteps_are_those_of_diffusers_but_for_the_four_counts_it_gets_wrong() -> None:
    theirs = diffusers.EulerDiscreteScheduler(timestep_spacing="trailing")
    wrong = []
    for steps in range(1, 151):
        theirs.set_timesteps(steps)
        mine = trailing(1000, steps)
        assert mine == theirs.timesteps.tolist()[:steps]
        if len(theirs.timesteps) != steps:
            wrong.append(steps)
    assert wrong == [61, 103, 121, 122]


@given(st.floats(0, 999))
def test_a_timestep_and_its_sigma_lead_to_each_other(timestep: float) -> None:
    for table in TABLES.values():
        assert timestep_of(sigma_of(timestep, table), table) == pytest.approx(timestep, abs=1e-6)


def test_the_table_is_met_at_whole_timesteps_and_left_at_neither_end() -> None:
    table = TABLES["SDXL"]
    assert [sigma_of(timestep, table) for timestep in (0, 1, 998, 999)] == pytest.approx(
        [table[0], table[1], table[998], table[999]]
    )
    assert timestep_of(table[-1] * 2, table) == 999
    assert timestep_of(table[0] / 2, table) == 0


@given(st.floats(0, 1))
def test_a_quantile_has_its_share_of_the_beta_distribution_below_it(share: float) -> None:
    quantile = beta_quantile(share)
    # The distribution function, over the angle a of x = sin²(a), where its density (sin a · cos a) ** 0.2 is tame; near
    # the ends that is nearly a ** 0.2, whose integral is a ** 1.2 / 1.2, so even steps of a ** 1.2 suit it.
    end = math.asin(math.sqrt(min(quantile, 1 - quantile)))
    angle = ((np.arange(20_000) + 0.5) / 20_000) ** (1 / 1.2) * end
    integral = float(np.mean((np.sin(angle) * np.cos(angle) / angle) ** 0.2)) * end**1.2 / 1.2 if end > 0 else 0.0
    whole = math.gamma(0.6) ** 2 / math.gamma(1.2) / 2
    assert integral / whole == pytest.approx(min(share, 1 - share), abs=1e-7)


def test_a_schedule_that_only_diffusers_makes_has_no_levels() -> None:
    with pytest.raises(ValueError, match="Automatic"):
        levels(SCHEDULES[0], TABLES["SDXL"], 4)
