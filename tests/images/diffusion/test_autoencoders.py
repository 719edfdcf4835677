"""A VAE of its own, in place of the checkpoint's: both layouts decode the same, and what does not fit is refused."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from illustrious.errors import InvalidRequest
from illustrious.images.diffusion.autoencoders import Autoencoders
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.placement import place
from illustrious.images.diffusion.single_file import VAE
from illustrious.types import ImageRequest
from tests import tiny
from tests.images.diffusion.drawing import decoded, loaded

OTHER = tiny.Tiny(seed=5)
REQUEST = ImageRequest(prompt="a cat", steps=2, seed=1)


def write(path: Path, checkpoint: tiny.Tiny = OTHER, prefix: str = "") -> Path:
    """The VAE of a checkpoint with LDM keys, as it is published: without, or as in the checkpoint with, a prefix."""
    path.parent.mkdir(exist_ok=True)
    tensors = {key.removeprefix(VAE): value for key, value in checkpoint.tensors().items() if key.startswith(VAE)}
    save_file({prefix + key: value for key, value in tensors.items()}, path)
    return path


@pytest.fixture(scope="module")
def model(single_file: Path) -> Model:
    return loaded(single_file)


@pytest.fixture
def autoencoders() -> Autoencoders:
    return Autoencoders(place("cpu"))


def test_every_layout_decodes_what_its_own_checkpoint_decodes(model: Model, tmp_path: Path) -> None:
    write(tmp_path / "vae" / "plain.safetensors")
    write(tmp_path / "vae" / "prefixed.safetensors", prefix=VAE)
    OTHER.pipeline().vae.save_pretrained(tmp_path / "vae" / "folder")
    write(tmp_path / "vae" / "own.safetensors", tiny.Tiny())

    def picture(vae: str | None) -> bytes:
        return decoded(model, REQUEST.model_copy(update={"vae": vae}), tmp_path).image

    assert picture("own") == picture(None)
    assert picture("plain") == picture("prefixed") == picture("folder") != picture(None)
    expected = OTHER.pipeline().vae.to(torch.float32)
    opened = Autoencoders(place("cpu")).load(tmp_path / "vae" / "plain.safetensors", "plain", model.vae)
    assert opened.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in opened.state_dict().items())


def test_one_is_kept_until_its_file_changes(autoencoders: Autoencoders, model: Model, tmp_path: Path) -> None:
    file = write(tmp_path / "vae.safetensors")
    first = autoencoders.load(file, "vae", model.vae)
    assert autoencoders.load(file, "vae", model.vae) is first
    write(file, tiny.Tiny(seed=6))
    assert autoencoders.load(file, "vae", model.vae) is not first


def test_those_for_latents_of_another_kind_are_refused(
    autoencoders: Autoencoders, model: Model, tmp_path: Path
) -> None:
    blocks = {"block_out_channels": (32, 32, 64, 64)}
    blocks |= {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    for name, config in {"deep": blocks, "wide": {"latent_channels": 16}}.items():
        AutoencoderKL.from_config({**model.vae.config, **config}).save_pretrained(tmp_path / name)
    with pytest.raises(InvalidRequest, match=r"4 channels and 1/8 of the picture's size, and the model of 4 and 1/4"):
        autoencoders.load(tmp_path / "deep", "deep", model.vae)
    with pytest.raises(InvalidRequest, match=r"16 channels.*Choose one for SDXL, or leave it out") as refused:
        autoencoders.load(tmp_path / "wide", "wide", model.vae)
    assert refused.value.field == "vae"


def test_what_is_no_autoencoder_is_refused_by_name(
    autoencoders: Autoencoders, model: Model, single_file: Path, tmp_path: Path
) -> None:
    save_file({"lora_unet_mid_block.lora_down.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(InvalidRequest, match=r"lora\.safetensors is no autoencoder"):
        autoencoders.load(tmp_path / "lora.safetensors", "lora", model.vae)
    model.unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(InvalidRequest, match="holds a UNet2DConditionModel"):
        autoencoders.load(tmp_path / "unet", "unet", model.vae)


def test_a_pickled_file_is_not_opened(autoencoders: Autoencoders, model: Model, tmp_path: Path) -> None:
    (tmp_path / "vae.pt").write_bytes(b"anything")
    with pytest.raises(InvalidRequest, match=r"could run any code.*\.safetensors file of the same VAE"):
        autoencoders.load(tmp_path / "vae.pt", "vae", model.vae)


def change(file: Path, change: dict[str, Tensor | None]) -> None:
    tensors = {**load_file(file), **change}
    save_file({key: value for key, value in tensors.items() if value is not None}, file)


def test_a_damaged_file_is_refused_with_a_remedy(autoencoders: Autoencoders, model: Model, tmp_path: Path) -> None:
    file = write(tmp_path / "vae.safetensors")
    change(file, {"decoder.conv_out.bias": torch.full((3,), torch.nan)})
    with pytest.raises(InvalidRequest, match=r"no numbers.*Download the VAE again, or leave it out"):
        autoencoders.load(file, "vae", model.vae)
    change(file, {"decoder.conv_out.bias": None})
    with pytest.raises(InvalidRequest, match=r"conv_out\.bias.*Download the VAE again, or leave it out"):
        autoencoders.load(file, "vae", model.vae)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InvalidRequest, match=r"incomplete.*Download the VAE again, or leave it out"):
        autoencoders.load(file, "vae", model.vae)
    file.unlink()
    with pytest.raises(InvalidRequest, match="cannot be read"):
        autoencoders.load(file, "vae", model.vae)
