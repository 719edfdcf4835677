"""Families are told by words, and how far to trust them is told too."""

import json
from pathlib import Path

import pytest

from illustrious.catalog.families import Family, family_in, read_sidecar, told


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Illustrious-XL-v0.1", "illustrious"),
        ("illustriousXL_v01", "illustrious"),
        ("Illustrious-XL-v1.0", "illustrious-2"),
        ("Illustrious-XL-v2.0-stable", "illustrious-2"),
        ("Illustrious-XL-v3.0-eps", "illustrious-3"),
        ("Illustrious-XL-v3.5-vpred", "illustrious-3"),
        ("waiNSFWIllustrious_v140", "illustrious"),
        ("novaAnimeXL_ilV120", "illustrious"),
        ("hassaku-ILXL", "illustrious"),
        ("mix IL", "illustrious"),
        ("NoobAI-XL-Vpred-v1.0", "noobai"),
        ("nai-xl-11", "noobai"),
        ("ponyDiffusionV6XL_v6StartWithThisOne", "pony"),
        ("autismmixSDXL_autismmixPony", "pony"),
        ("animagine-xl-4.0-opt", "animagine"),
        ("sd_xl_base_1.0", "sdxl"),
        ("SDXL 1.0", "sdxl"),
        ("juggernautXL_ragnarok", None),
        ("oil_painting", None),
        ("silver", None),
        ("", None),
    ],
)
def test_names_in_use_are_known(name: str, family: Family | None) -> None:
    assert family_in(name) == family


def test_of_several_the_one_named_first_counts() -> None:
    assert family_in("noobIllustriousPony") == "noobai"
    assert family_in("illustriousPonyNoob") == "illustrious"


def test_what_tools_wrote_goes_before_titles_and_these_before_names() -> None:
    path = Path("models/checkpoints/Pony/mix.safetensors")
    title = {"modelspec.title": "My NoobAI mix"}
    assert told({}, {}, path) == ("pony", "guess")
    assert told(title, {}, path) == ("noobai", "likely")
    assert told({**title, "ss_sd_model_name": "animagine-xl.safetensors"}, {}, path) == ("animagine", "certain")
    assert told(title, {"baseModel": "Illustrious"}, path) == ("illustrious", "certain")
    assert told({}, {}, Path("models/checkpoints/mix.safetensors")) == ("sdxl", "guess")
    assert told({}, {"baseModel": "SDXL 1.0"}, path) == ("sdxl", "certain")


def test_the_release_is_told_by_the_name_when_only_the_family_was_told() -> None:
    path = Path("Illustrious-XL-v2.0.safetensors")
    assert told({}, {"baseModel": "Illustrious"}, path) == ("illustrious-2", "certain")


def test_a_sidecar_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.b.safetensors"
    assert read_sidecar(file) == {}
    (tmp_path / "a.b.civitai.info").write_text("[]")
    assert read_sidecar(file) == {}
    (tmp_path / "a.b.civitai.info").write_text("{")
    assert read_sidecar(file) == {}
    (tmp_path / "a.b.civitai.info").write_text(json.dumps({"baseModel": "Pony"}))
    assert read_sidecar(file) == {"baseModel": "Pony"}
