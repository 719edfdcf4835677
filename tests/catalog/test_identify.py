"""Files are told from their headers: kind and base by tensors, the rest by what is written in, on and beside them."""

import json
from pathlib import Path

import pytest

from illustrious.catalog.identify import identify
from illustrious.catalog.identity import Base, Identity
from illustrious.catalog.kinds import Kind
from illustrious.catalog.prediction import Prediction
from illustrious.images.diffusion.checkpoint import starter_folder
from tests.catalog import headers
from tests.catalog.headers import Shapes, write_header
from tests.tiny import SIZE, Tiny, write_folder, write_single_file


@pytest.mark.parametrize(
    ("shapes", "kind", "base"),
    [
        (headers.SDXL, "checkpoint", "sdxl"),
        (headers.SDXL_INPAINTING, "checkpoint", "sdxl-inpainting"),
        (headers.REFINER, "checkpoint", "sdxl-refiner"),
        (headers.SD1, "checkpoint", "sd1"),
        (headers.SD2, "checkpoint", "sd2"),
        (headers.FLUX, "checkpoint", "other"),
        (headers.LORA, "lora", "sdxl"),
        (headers.LORA_PEFT, "lora", "sdxl"),
        (headers.LORA_SD1, "lora", "sd1"),
        (headers.EMBEDDING, "embedding", "sdxl"),
        (headers.EMBEDDING_SD1, "embedding", "sd1"),
        (headers.VAE_LDM, "vae", None),
        (headers.VAE_DIFFUSERS, "vae", None),
        (headers.CONTROLNET, "controlnet", "sdxl"),
        (headers.CONTROLNET_LDM, "controlnet", "sd1"),
        (headers.UPSCALER, "upscaler", None),
        ({"weight": (3, 3, 3)}, None, None),
        ({}, None, None),
    ],
)
def test_tensors_tell_kind_and_base(tmp_path: Path, shapes: Shapes, kind: Kind | None, base: Base | None) -> None:
    found = identify(write_header(tmp_path / "file.safetensors", shapes))
    assert (found.kind, found.base, found.problem) == (kind, base, None)


def test_a_lora_tells_its_base_by_what_its_trainer_wrote(tmp_path: Path) -> None:
    shapes = {"lora_unet_mid_block_resnets_0_conv1.lora_down.weight": (8, 320, 3, 3)}
    for said, base in (("sdxl_base_v1-0", "sdxl"), ("sd_v1", "sd1"), ("sd_v2_768", "sd2")):
        file = write_header(tmp_path / "a.safetensors", shapes, {"ss_base_model_version": said})
        assert identify(file).base == base


def test_real_checkpoints_of_both_layouts_are_told_alike(tmp_path: Path) -> None:
    tiny = Tiny(prediction="v_prediction", zero_snr=True, in_channels=9)
    file = identify(write_single_file(tmp_path / "noob.safetensors", tiny))
    folder = identify(write_folder(tmp_path / "noob", tiny))
    assert file.draws
    assert folder == file
    assert file == Identity(
        kind="checkpoint",
        base="sdxl-inpainting",
        family="noobai",
        sure="guess",
        prediction=Prediction(type="v_prediction", zero_snr=True, sure="certain"),
        width=SIZE,
        height=SIZE,
    )


def test_the_starter_model_is_told_from_its_folder() -> None:
    found = identify(starter_folder())
    assert (found.base, found.width, found.height) == ("sdxl", 128, 128)
    assert found.prediction == Prediction(type="v_prediction", zero_snr=False, sure="certain")


def test_folders_of_other_pipelines_are_told_too(tmp_path: Path) -> None:
    write_folder(tmp_path / "xl")
    index = json.loads((tmp_path / "xl" / "model_index.json").read_text())

    def with_index(**changes: object) -> Identity:
        (tmp_path / "xl" / "model_index.json").write_text(json.dumps({**index, **changes}))
        return identify(tmp_path / "xl")

    assert with_index(text_encoder=[None, None]).base == "sdxl-refiner"
    assert with_index(_class_name="FluxPipeline").base == "other"
    assert with_index(_class_name="StableDiffusionPipeline").base == "sd1"
    assert not with_index(_class_name="StableDiffusionPipeline").draws


def test_folders_of_single_models_are_told_by_their_class(tmp_path: Path) -> None:
    for kind, name in (("vae", "AutoencoderKL"), ("controlnet", "ControlNetModel"), (None, "Else")):
        (tmp_path / "config.json").write_text(json.dumps({"_class_name": name}))
        assert identify(tmp_path).kind == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.txt", "wildcard"), ("a.pth", "upscaler"), ("a.pt", "embedding"), ("a.ckpt", "checkpoint"), ("a.doc", None)],
)
def test_files_that_are_not_opened_are_told_by_their_names(tmp_path: Path, name: str, kind: Kind | None) -> None:
    (tmp_path / name).write_bytes(b"pickle")
    found = identify(tmp_path / name)
    assert found.kind == kind
    assert (found.problem is not None) == name.endswith(".ckpt")


def test_a_large_pickled_file_is_no_embedding(tmp_path: Path) -> None:
    with (tmp_path / "a.pt").open("wb") as file:
        file.truncate(60_000_000)
    assert identify(tmp_path / "a.pt").kind == "upscaler"


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no")
    assert "Download it again" in (identify(tmp_path / "a.safetensors").problem or "")
    assert "cannot be read" in (identify(tmp_path / "b.safetensors").problem or "")
    assert "cannot be read" in (identify(tmp_path / "b.pt").problem or "")
    (tmp_path / "config.json").write_text("[]")
    assert "not a JSON object" in (identify(tmp_path).problem or "")


def test_words_in_and_beside_the_file_are_kept(tmp_path: Path) -> None:
    metadata = {
        "modelspec.title": "Red dress",
        "modelspec.author": "somebody",
        "modelspec.license": "FAIPL-1.0-SD",
        "modelspec.trigger_phrase": "reddress",
    }
    file = write_header(tmp_path / "a.safetensors", headers.LORA, metadata)
    (tmp_path / "a.civitai.info").write_text(json.dumps({"trainedWords": ["red dress", "reddress"]}))
    found = identify(file)
    assert (found.title, found.author, found.licence) == ("Red dress", "somebody", "FAIPL-1.0-SD")
    assert found.triggers == ("red dress", "reddress")


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("1024x1024", (1024, 1024)),
        ("832x1216", (832, 1216)),
        ("1536x1536", (1536, 1536)),
        ("1024x1023", (None, None)),
        ("10x10", (None, None)),
        ("huge", (None, None)),
    ],
)
def test_the_native_size_is_the_one_said_if_it_is_sane(
    tmp_path: Path, said: str, size: tuple[int | None, int | None]
) -> None:
    found = identify(write_header(tmp_path / "a.safetensors", headers.SDXL, {"modelspec.resolution": said}))
    assert (found.width, found.height) == size
