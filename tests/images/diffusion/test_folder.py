"""Diffusers folders: variants, shards, and refusals that name what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel

from illustrious.errors import Unavailable
from illustrious.images.diffusion.checkpoint import starter_folder
from illustrious.images.diffusion.folder import open_folder
from tests import tiny

Change = Callable[[Path], None]


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    """A copy of the starter model, to be damaged."""
    return Path(shutil.copytree(starter_folder(), tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_starter_is_described_by_its_own_files() -> None:
    checkpoint = open_folder(starter_folder())
    assert checkpoint.size == (128, 128)
    assert checkpoint.vae.kind == "AutoencoderKL"
    assert checkpoint.zeros_for_empty_negative is False
    assert checkpoint.tokenizers[0].model_max_length == 32
    assert checkpoint.sampler.scheduler().config.prediction_type == "v_prediction"


def test_fp16_variants_and_shards_hold_the_same_tensors(folder: Path, tmp_path: Path) -> None:
    expected = open_folder(folder).unet.tensors
    variant = tiny.write_folder(tmp_path / "variant", variant="fp16")
    assert (variant / "unet" / "diffusion_pytorch_model.fp16.safetensors").exists()
    sharded = Path(shutil.copytree(folder, tmp_path / "sharded"))
    (sharded / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float16)
    unet.save_pretrained(sharded / "unet", max_shard_size="1MB")
    assert len(list((sharded / "unet").glob("*-of-*.safetensors"))) > 1
    for path in (variant, sharded):
        tensors = open_folder(path).unet.tensors
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_a_decoder_of_previews_beside_the_other_parts_is_found(folder: Path, tmp_path: Path) -> None:
    assert open_folder(folder).preview is None
    brought = Path(shutil.copytree(folder, tmp_path / "brought"))
    decoder = AutoencoderTiny(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(0, 1),
        num_decoder_blocks=(1, 0),
    )
    decoder.save_pretrained(brought / "preview")
    found = open_folder(brought).preview
    assert found is not None
    assert found.tensors.keys() == decoder.state_dict().keys()


def unpickled_only(path: Path) -> None:
    weights = path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


def truncated(path: Path) -> None:
    weights = path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: (path / "model_index.json").unlink(), "model_index.json"),
        (lambda path: (path / "model_index.json").write_text("{"), "not valid JSON"),
        (lambda path: (path / "model_index.json").write_text("[]"), "not a JSON object"),
        (lambda path: (path / "model_index.json").write_bytes(b"\xff\xfe"), "not valid JSON"),
        (lambda path: edit(path / "model_index.json", _class_name="FluxPipeline"), "FluxPipeline"),
        (lambda path: edit(path / "model_index.json", text_encoder=[None, None]), "refiner"),
        (lambda path: edit(path / "model_index.json", vae=["diffusers", "AutoencoderDC"]), "AutoencoderDC"),
        (lambda path: edit(path / "scheduler" / "scheduler_config.json", _class_name="Dream"), "Dream"),
        (lambda path: (path / "unet" / "config.json").unlink(), "config.json"),
        (lambda path: (path / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "no weights"),
        (lambda path: shutil.rmtree(path / "tokenizer_2"), "tokenizer_2"),
        (unpickled_only, "pickled"),
        (truncated, "damaged"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_by_what_is_wrong(starter: Path, damage: Change, said: str) -> None:
    damage(starter)
    with pytest.raises(Unavailable, match=said):
        open_folder(starter)
