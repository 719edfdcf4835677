"""The names people know samplers and schedules by, and what goes with what."""

import subprocess
import sys
from pathlib import Path

import pytest

from illustrious.errors import InvalidRequest, Unavailable
from illustrious.images.diffusion.samplers import METHODS, NAMES, Sampler, choose, names, sampler

SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "interpolation_type": "linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
EULER = sampler("EulerDiscreteScheduler", SDXL)
V = sampler("EulerDiscreteScheduler", {**SDXL, "prediction_type": "v_prediction"})
ZERO_SNR = sampler(
    "EulerDiscreteScheduler", {**V.config, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
)


def called(used: Sampler) -> tuple[str, str]:
    return used.name, used.schedule


# What a model asks for


@pytest.mark.parametrize(
    ("kind", "config", "name", "schedule"),
    [
        ("EulerDiscreteScheduler", {}, "Euler", "Automatic"),
        ("EulerDiscreteScheduler", {"use_exponential_sigmas": True}, "Euler", "Exponential"),
        ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, "Euler", "Beta"),
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, "Euler", "Automatic"),
        ("EulerAncestralDiscreteScheduler", {}, "Euler a", "Automatic"),
        ("EulerAncestralDiscreteScheduler", {"use_karras_sigmas": True}, "Euler a", "Automatic"),
        ("DPMSolverMultistepScheduler", {}, "DPM++ 2M", "Automatic"),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "DPM++ 2M", "Karras"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "DPM++ 2M SDE", "Automatic"),
        (
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
            "DPM++ 2M SDE Heun",
            "Automatic",
        ),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}, "DPM++ 3M", "Automatic"),
        (
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
            "DPM++ 3M SDE",
            "Automatic",
        ),
        ("LMSDiscreteScheduler", {}, "LMS", "Automatic"),
        ("DPMSolverSDEScheduler", {"noise_sampler_seed": 3}, "DPM++ SDE", "Automatic"),
        ("DDIMScheduler", {"use_karras_sigmas": True}, "DDIM", "Automatic"),
    ],
)
def test_a_models_own_scheduler_is_called_what_artists_call_it(
    kind: str, config: dict[str, object], name: str, schedule: str
) -> None:
    used = sampler(kind, {**SDXL, **config})
    assert called(used) == (name, schedule)
    assert type(used.scheduler()).__name__ == used.kind == kind


@pytest.mark.parametrize("kind", sorted(NAMES))
def test_every_request_for_a_scheduler_gets_a_fresh_one(kind: str) -> None:
    used = sampler(kind, SDXL)
    assert used.scheduler() is not used.scheduler()


def test_an_unknown_scheduler_is_refused_by_name() -> None:
    with pytest.raises(Unavailable, match="DreamScheduler"):
        sampler("DreamScheduler", {})


# What a request asks for


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_name_and_alias_finds_its_sampler(method: object) -> None:
    for name in (method.name, method.name.upper(), *method.aliases):  # type: ignore[attr-defined]
        assert choose(EULER, name, None)[0].name == method.name  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("asked", "name", "schedule"),
    [
        ("euler_a", "Euler a", "Automatic"),
        ("euler_ancestral", "Euler a", "Automatic"),
        ("sample_euler_ancestral", "Euler a", "Automatic"),
        ("EulerAncestralDiscreteScheduler", "Euler a", "Automatic"),
        ("  dpm++ 2m  ", "DPM++ 2M", "Automatic"),
        ("sample_dpmpp_2m", "DPM++ 2M", "Automatic"),
        ("DPMPP_2M_SDE", "DPM++ 2M SDE", "Automatic"),
        ("dpmpp-3m-sde", "DPM++ 3M SDE", "Automatic"),
        ("uni_pc", "UniPC", "Automatic"),
        ("DPM++ 2M Karras", "DPM++ 2M", "Karras"),
        ("DPM++ 2M SDE Exponential", "DPM++ 2M SDE", "Exponential"),
        ("DPM2 a Karras", "DPM2 a", "Karras"),
        ("k_dpmpp_2m_ka", "DPM++ 2M", "Karras"),
        ("dpmpp_2m_sde_karras", "DPM++ 2M SDE", "Karras"),
        ("euler_k", "Euler", "Karras"),
        ("Euler a SGM Uniform", "Euler a", "SGM Uniform"),
    ],
)
def test_spellings_and_fused_names_of_other_tools_are_understood(asked: str, name: str, schedule: str) -> None:
    assert called(choose(EULER, asked, None)[0]) == (name, schedule)


@pytest.mark.parametrize(
    ("asked", "schedule"),
    [
        ("automatic", "Automatic"),
        ("KARRAS", "Karras"),
        ("sgm_uniform", "SGM Uniform"),
        ("SGMUniform", "SGM Uniform"),
        ("simple", "Simple"),
        ("uniform", "Normal"),
        ("trailing", "Trailing"),
    ],
)
def test_schedules_are_found_by_name_and_alias(asked: str, schedule: str) -> None:
    assert called(choose(EULER, "Heun", asked)[0]) == ("Heun", schedule)
    assert called(choose(EULER, None, asked)[0]) == ("Euler", schedule)


def test_what_is_not_asked_for_is_the_models_own() -> None:
    karras = sampler("DPMSolverMultistepScheduler", {**SDXL, "use_karras_sigmas": True})
    for schedule in (None, "Automatic", "Karras"):
        assert choose(karras, None, schedule) == (karras, ())
        assert choose(karras, "DPM++ 2M", schedule) == (karras, ())
    assert called(choose(karras, "Euler a", None)[0]) == ("Euler a", "Karras")
    assert called(choose(karras, "DDIM", None)[0]) == ("DDIM", "Automatic")
    assert called(choose(karras, None, "Simple")[0]) == ("DPM++ 2M", "Simple")


def test_a_fused_name_and_the_same_schedule_beside_it_are_no_contradiction() -> None:
    for schedule in (None, "Automatic", "karras"):
        assert called(choose(EULER, "DPM++ 2M Karras", schedule)[0]) == ("DPM++ 2M", "Karras")
    with pytest.raises(InvalidRequest, match=r"Karras.*Exponential"):
        choose(EULER, "DPM++ 2M Karras", "Exponential")


def test_latents_are_not_clipped_like_pixels_unless_the_model_says_so() -> None:
    assert choose(EULER, "DDIM", None)[0].scheduler().config.clip_sample is False
    assert sampler("DDIMScheduler", {**SDXL, "clip_sample": True}).scheduler().config.clip_sample is True


def test_a_sampler_takes_over_what_is_the_models_and_not_what_was_its_schedulers() -> None:
    solver = sampler("DPMSolverMultistepScheduler", {**V.config, "solver_order": 3, "final_sigmas_type": "sigma_min"})
    config = choose(solver, "UniPC", None)[0].scheduler().config
    assert (config.prediction_type, config.steps_offset, config.beta_end) == ("v_prediction", 1, 0.012)
    assert (config.solver_order, config.final_sigmas_type) == (2, "zero")


@pytest.mark.parametrize(
    ("sampler_", "schedule", "field", "hint"),
    [
        ("Eular a", None, "sampler", "Did you mean Euler a or Euler"),
        ("DPM++ 2M Kerras", None, "sampler", "DPM\\+\\+ 2M"),
        ("", None, "sampler", "There are Euler, Euler a"),
        ("qwertyuiop", None, "sampler", "There are Euler, Euler a"),
        ("Euler", "Karas", "schedule", "Did you mean Karras"),
        ("Euler", "zzz", "schedule", "There are Automatic, Karras"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_ones(
    sampler_: str, schedule: str | None, field: str, hint: str
) -> None:
    with pytest.raises(InvalidRequest, match=hint) as refused:
        choose(EULER, sampler_, schedule)
    assert refused.value.field == field


# What goes with what


@pytest.mark.parametrize("name", ["Heun", "DPM2", "DPM2 a", "PLMS"])
def test_a_sampler_without_a_step_from_pure_noise_is_refused_for_a_zero_snr_model(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"zero terminal SNR.*Euler, Euler a, DPM\+\+ 2M") as refused:
        choose(ZERO_SNR, name, None)
    assert refused.value.field == "sampler"


@pytest.mark.parametrize("schedule", ["Karras", "Exponential", "Beta"])
def test_a_schedule_over_sigmas_is_refused_for_a_zero_snr_model(schedule: str) -> None:
    with pytest.raises(InvalidRequest, match=r"zero terminal SNR.*Automatic, SGM Uniform, Simple") as refused:
        choose(ZERO_SNR, "Euler", schedule)
    assert refused.value.field == "schedule"
    with pytest.raises(InvalidRequest, match=schedule):
        choose(ZERO_SNR, f"DPM++ 2M {schedule}", None)


def test_karras_on_a_v_prediction_model_is_drawn_with_a_warning() -> None:
    used, (warning,) = choose(V, "DPM++ 2M", "Karras")
    assert called(used) == ("DPM++ 2M", "Karras")
    assert "v-prediction" in warning
    assert choose(EULER, "DPM++ 2M", "Karras")[1] == ()
    assert choose(V, "DPM++ 2M", "Exponential")[1] == ()


@pytest.mark.parametrize(
    ("name", "schedule"), [("DDIM", "Karras"), ("DDPM", "Simple"), ("LCM", "Trailing"), ("TCD", "Beta")]
)
def test_a_schedule_that_has_no_effect_is_said_to_have_none(name: str, schedule: str) -> None:
    for model in (EULER, V, ZERO_SNR):
        used, (warning,) = choose(model, name, schedule)
        assert called(used) == (name, "Automatic")
        assert f"{schedule} has no effect" in warning


def test_a_third_order_sde_on_the_normal_schedule_is_drawn_with_a_warning() -> None:
    (warning,) = choose(EULER, "DPM++ 3M SDE", "Normal")[1]
    assert "overshoots" in warning


def test_a_model_that_predicts_the_picture_itself_is_kept_from_samplers_that_cannot_take_it() -> None:
    clean = sampler("EulerDiscreteScheduler", {**SDXL, "prediction_type": "sample"})
    assert choose(clean, "DPM++ 2M", None)[0].name == "DPM++ 2M"
    with pytest.raises(InvalidRequest, match="predicts the picture itself"):
        choose(clean, "Euler a", None)


# Lists


def test_the_list_has_every_sampler_and_schedule_with_its_aliases() -> None:
    assert list(names().samplers)[:2] == ["Euler", "Euler a"]
    assert "k_euler_a" in names().samplers["Euler a"]
    assert list(names().schedules) == [
        "Automatic", "Karras", "Exponential", "SGM Uniform", "Simple", "Normal", "Beta", "Trailing"
    ]  # fmt: skip
    assert names().schedules["SGM Uniform"][0] == "sgm_uniform"


def documented() -> list[list[str]]:
    """The rows of the tables in docs/samplers.md, cell by cell."""
    text = (Path(__file__).parents[3] / "docs" / "samplers.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if "`" in row[1]]


def test_the_document_lists_the_same() -> None:
    listed = {row[0]: tuple(row[1].replace("`", "").split()) for row in documented()}
    assert listed == {**names().samplers, **names().schedules}
    orders = {row[0]: int(row[2]) for row in documented() if len(row) == 4}
    assert orders == {method.name: choose(EULER, method.name, None)[0].scheduler().order for method in METHODS}


def test_the_names_are_known_where_there_is_no_torch() -> None:
    program = (
        "import sys; from illustrious.images.diffusion.samplers import names; "
        "assert names().samplers; print(sorted({'torch', 'numpy', 'diffusers'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
