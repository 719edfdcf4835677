from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import safe_open
from training.config import ImageConfig, StyleConfig
from training.lora import LoraTrainer, attach, on_finished, put_off, write
from training.run import Stop, train

from tests.training import tiny

CPU = Accelerator(cpu=True)


def recipe(base: Path, steps: int) -> ImageConfig:
    style = StyleConfig(samples=4 * steps, batch=4, rank=4, learning_rate=1e-2)
    return on_finished(ImageConfig(size=tiny.SIZE, precision="float32"), base, style).model_copy(
        update={"style": style}
    )


def pixels(pipeline: StableDiffusionXLPipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    drawn = pipeline("a frog", num_inference_steps=3, generator=generator, output_type="pt").images
    return drawn.float()


def test_only_the_adapter_learns_and_its_file_draws_in_plain_diffusers(base: Path, tmp_path: Path) -> None:
    config = recipe(base, steps=8)
    trainer = LoraTrainer(config, config.style, tiny.icons(), CPU)
    unet = trainer.model.unet
    before = {name: weight.clone() for name, weight in unet.named_parameters()}
    for _ in train(trainer, tmp_path / "run", Stop()):
        pass
    changed = {name for name, weight in unet.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)

    write(unet, tmp_path / "learned.safetensors", {"modelspec.title": "learned"})
    trainer.model.trained.eval()
    with torch.no_grad():
        learned = pixels(trainer.model.pipeline())
        with put_off(unet):
            plain = pixels(trainer.model.pipeline())
    pipeline = StableDiffusionXLPipeline.from_pretrained(base, dtype=torch.float32)
    assert torch.allclose(pixels(pipeline), plain, atol=1e-4)
    pipeline.load_lora_weights(tmp_path, weight_name="learned.safetensors")
    assert torch.allclose(pixels(pipeline), learned, atol=5e-3)  # the file is in float16
    assert (learned - plain).abs().max() > 0.02


def test_it_begins_the_same_every_time(base: Path) -> None:
    """In two runs, and in each process of one."""
    config = recipe(base, steps=1)
    first, second = (LoraTrainer(config, config.style, tiny.icons(), CPU).learner.weights for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert any(weight.any() for weight in first)


def test_the_file_says_what_it_is(base: Path, tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(base / "unet", dtype=torch.float32)
    attach(unet, rank=4)
    write(unet, tmp_path / "new.safetensors", {"modelspec.title": "new"})
    with safe_open(tmp_path / "new.safetensors", "pt") as file:
        assert file.metadata()["ss_network_dim"] == "4"
        assert file.metadata()["modelspec.title"] == "new"
        ups = [name for name in file.keys() if name.endswith("lora_up.weight")]  # noqa: SIM118 - no mapping
        assert ups
        assert not any(file.get_tensor(name).any() for name in ups)  # what has learned nothing changes nothing
