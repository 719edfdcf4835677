"""Low-rank adapters of the finished image model (Hu et al., "LoRA", 2021): put on, learned, written in kohya's layout.

What an adapter learns is a trainer's own: ``training/style.py`` and ``training/few_steps.py``.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from peft import LoraConfig as PeftConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

from training import run
from training.config import ImageConfig, LoraConfig
from training.icons import STYLES, Icon
from training.image import ImageTrainer
from training.learner import Learner

log = logging.getLogger("training")

NAME = "learned"

LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2")
"""All of the transformer blocks, and the convolutions of the residual ones: strokes and shading are made there."""


class LoraTrainer(ImageTrainer):
    """Trains an adapter; the model itself stays what it is."""

    def __init__(self, config: ImageConfig, lora: LoraConfig, icons: list[Icon], accelerator: Accelerator) -> None:
        super().__init__(config, icons, accelerator)
        self.recipe = {**config.said(), "lora": lora.model_dump(mode="json")}
        trained = self.model.trained.requires_grad_(False)
        torch.manual_seed(config.seed)  # half of an adapter begins at random, and in every process at the same
        attach(self.model.unet, lora.rank)
        self.learner = Learner(trained.train(), lora.schedule, accelerator)


def on_finished(config: ImageConfig, base: Path, lora: LoraConfig) -> ImageConfig:
    """The recipe's pictures at the finished model's size, for what is learned on top of it."""
    model = config.model.model_copy(update={"start": base})
    size = config.native or config.size
    return config.model_copy(update={"model": model, "size": size, "native": None, "batch": lora.batch})


BASE = "ss_new_sd_model_hash"
"""kohya's name for the SHA-256 of the model that an adapter was learned on; here of its UNet's file."""


def base_hash(model: Path) -> str:
    return hashlib.sha256((model / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()


def learn(trainer: LoraTrainer, config: ImageConfig, folder: Path, name: str, description: str) -> int:
    """Train to the end, or until an end is asked for; write ``starter-<name>.safetensors``. Returns an exit code."""
    run.begin(trainer, folder)
    stop = run.Stop().listen()
    if not run.complete(trainer, folder, stop, config.checkpoint_minutes, config.sheet_every):
        return 0
    source = STYLES[config.styles[0]]
    metadata = {
        "modelspec.title": f"Starter, {name}",
        "modelspec.description": description,
        "modelspec.author": source.name,
        "modelspec.license": source.licence,
    }
    if config.model.start is not None:
        metadata[BASE] = base_hash(config.model.start)
    with trainer.learner.averaged():
        file = folder / f"starter-{name}.safetensors"
        digest = write(trainer.model.unet, file, metadata)
        trainer.show(folder / "sheets" / "final.png")
    log.info("the LoRA is %s (SHA-256 %s)", file, digest)
    return 0


def attach(unet: UNet2DConditionModel, rank: int) -> None:
    """An adapter that changes nothing yet. Afterwards it alone learns."""
    unet.requires_grad_(False)
    unet.add_adapter(PeftConfig(r=rank, lora_alpha=rank, target_modules=list(LAYERS)), NAME)


@contextmanager
def put_off(unet: UNet2DConditionModel) -> Iterator[None]:
    """Within it the UNet is what it was before."""
    unet.disable_adapters()
    try:
        yield
    finally:
        unet.enable_adapters()


def write(unet: UNet2DConditionModel, file: Path, metadata: Mapping[str, str]) -> str:
    """The adapter as kohya's programs write it: ``lora_unet_<layer>`` with ``.lora_down.weight``, ``.lora_up.weight``
    and ``.alpha`` (github.com/kohya-ss/sd-scripts), in float16. Returns the file's SHA-256."""
    tensors = {}
    for name, layer in unet.named_modules():
        if isinstance(layer, LoraLayer):
            key = f"lora_unet_{name.replace('.', '_')}"
            tensors[f"{key}.lora_down.weight"] = layer.lora_A[NAME].weight.detach().half().contiguous()
            tensors[f"{key}.lora_up.weight"] = layer.lora_B[NAME].weight.detach().half().contiguous()
            tensors[f"{key}.alpha"] = torch.tensor(float(layer.lora_alpha[NAME]), dtype=torch.float16)
    rank = next(str(tensor.shape[0]) for key, tensor in tensors.items() if key.endswith("lora_down.weight"))
    stated = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.prediction_type": "v",
        **metadata,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file(tensors, partial, metadata=stated)
    partial.replace(file)
    return hashlib.sha256(file.read_bytes()).hexdigest()
