"""Open what ``--model`` names: a single ``.safetensors`` file with LDM keys, or a diffusers folder. Never the network.

Pickled files are refused by their names: unpickling runs whatever code the file holds.
"""

from importlib.resources import files
from pathlib import Path

from illustrious.errors import Unavailable
from illustrious.images.diffusion import folder, single_file
from illustrious.images.diffusion.parts import Checkpoint
from illustrious.images.diffusion.weights import read

PICKLED = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}


def starter_folder() -> Path:
    """The starter model, part of the installed package."""
    return Path(str(files("illustrious") / "data" / "starter"))


def open_checkpoint(path: Path) -> Checkpoint:
    """The parts of the model at ``path``, mapped but not yet read. Raises ``Unavailable``: a reason and a remedy."""
    path = path.expanduser()
    if path.is_dir():
        return folder.open_folder(path)
    if not path.exists():
        raise Unavailable(f"There is no model at {path}. Check the path given with --model.")
    if path.suffix.lower() in PICKLED:
        raise Unavailable(
            f"{path.name} is a pickled checkpoint, which could run any code when opened. "
            "Use the .safetensors file of the same model, or convert it."
        )
    if path.suffix.lower() != ".safetensors":
        raise Unavailable(f"{path.name} is not a .safetensors file. Choose an SDXL checkpoint in that format.")
    tensors, metadata = read(path)
    return single_file.parse(path, tensors, metadata)
