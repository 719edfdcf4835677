"""From a job to a saved picture: with the hashes of what it was drawn with."""

import hashlib
from pathlib import Path

from illustrious.app import open_studio
from illustrious.service import Asker
from illustrious.settings import Settings
from illustrious.types import ImageRequest, Lora
from tests.catalog.headers import LORA, SDXL, write_header


async def test_a_picture_says_which_files_it_was_drawn_with(tmp_path: Path) -> None:
    models = tmp_path / "models"
    checkpoint = write_header(models / "checkpoints" / "ponyMix.safetensors", {"few": (4,)} | SDXL)
    lora = write_header(models / "loras" / "style" / "ink.safetensors", LORA)
    request = ImageRequest(prompt="a cat", steps=1, width=64, height=64, model="ponyMix", loras=(Lora(name="ink"),))
    with open_studio(Settings(data_dir=tmp_path, fake=True)) as studio:
        await studio.start(draw=False)
        try:
            drawn = await studio.generate(request, Asker())
            picture = await studio.gallery.get(drawn.id)
        finally:
            await studio.close()
    tensors = lora.read_bytes()[8 + int.from_bytes(lora.read_bytes()[:8], "little") :]
    assert picture.lora_hashes == {"ink": hashlib.sha256(tensors).hexdigest()[:12]}
    assert picture.model_hash == _sha256(checkpoint)[:10]
    assert f"Model hash: {picture.model_hash}".encode() in drawn.image
    assert f'Lora hashes: "ink: {picture.lora_hashes["ink"]}"'.encode() in drawn.image


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
