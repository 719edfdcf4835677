"""Autoencoders in files of their own, in place of a checkpoint's: with LDM keys, or as a diffusers folder."""

from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from illustrious.catalog.folder import read_json
from illustrious.errors import InvalidRequest, Unavailable
from illustrious.images.diffusion.folder import weights_in
from illustrious.images.diffusion.parts import Part, latent_factor
from illustrious.images.diffusion.placement import Placement
from illustrious.images.diffusion.recent import Recent
from illustrious.images.diffusion.single_file import VAE, Tensors, autoencoder_config
from illustrious.images.diffusion.weights import assemble, read

REMEDY = "Download the VAE again, or leave it out."

CAPACITY = 2**30
"""Bytes of autoencoders kept in memory; one has some 170 MB in half precision."""


class Autoencoders:
    """Those that were asked for lately."""

    def __init__(self, placement: Placement, capacity: int = CAPACITY) -> None:
        self._placement = placement
        self._kept: Recent[Any] = Recent(
            capacity, lambda vae: sum(tensor.nbytes for tensor in vae.state_dict().values())
        )

    def load(self, path: Path, name: str, own: Any) -> Any:
        """The autoencoder at ``path``, for a model whose own is ``own``.

        Raises ``InvalidRequest`` for one that is damaged, or made for latents of another kind.
        """
        try:
            written = path.stat().st_mtime_ns
            vae = self._kept.get((path, written), lambda: assemble(open_autoencoder(path), self._placement))
        except OSError as error:
            raise _refused(f"The VAE {name} cannot be read ({error.strerror}). Check {path}.") from error
        except Unavailable as error:
            raise _refused(f"The VAE {name} cannot be used: {error}") from error
        mine, others = ((config.latent_channels, latent_factor(config)) for config in (own.config, vae.config))
        if mine != others:
            raise _refused(
                f"The VAE {name} does not fit this model: it has latents of {others[0]} channels and 1/{others[1]} of "
                f"the picture's size, and the model of {mine[0]} and 1/{mine[1]}. Choose one for SDXL, or leave it out."
            )
        return vae


def open_autoencoder(path: Path) -> Part:
    """The autoencoder at ``path``, mapped but not yet read. Raises ``Unavailable``."""
    title = f"VAE {path.stem}"
    if path.is_dir():
        config = read_json(path / "config.json")
        kind = str(config.get("_class_name"))
        if kind not in ("AutoencoderKL", "AutoencoderTiny"):
            raise Unavailable(f"{path} holds a {kind} and no autoencoder of SDXL's kind. Choose another, or none.")
        return Part(title, kind, config, weights_in(path, "diffusion_pytorch_model", REMEDY), REMEDY)
    if path.suffix.lower() != ".safetensors":
        raise Unavailable(
            f"{path.name} is no .safetensors file, and other formats could run any code when opened. Use the "
            ".safetensors file of the same VAE."
        )
    tensors = {key.removeprefix(VAE): tensor for key, tensor in read(path, REMEDY)[0].items()}
    if "encoder.down.0.block.0.conv2.weight" not in tensors:
        raise Unavailable(f"{path.name} is no autoencoder under SDXL's names (encoder.down…). Choose another, or none.")
    config = autoencoder_config(Tensors(title, "", tensors))
    own = {VAE + key: tensor for key, tensor in tensors.items() if not key.startswith(("loss.", "model_ema."))}
    return Part(title, "AutoencoderKL", config, convert_ldm_vae_checkpoint(own, config), REMEDY)


def _refused(message: str) -> InvalidRequest:
    return InvalidRequest(message, field="vae")
