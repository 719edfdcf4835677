"""What a picture wears: LoRAs, guides of its region, and what makes pictures wear the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from illustrious.catalog.library import Library
from illustrious.errors import InvalidRequest
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.outfit import Find, Outfit, dress
from illustrious.types import Control, ImageRequest, Lora
from tests import tiny_controlnet, tiny_lora
from tests.images.diffusion.drawing import latents, loaded
from tests.images.diffusion.editing import photo, png, rectangle

REQUEST = ImageRequest(prompt="a cat", steps=2, seed=1, width=64, height=64)


@pytest.fixture(scope="module")
def model(single_file: Path) -> Model:
    return loaded(single_file)


@pytest.fixture(scope="module")
def root(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    (root / "loras").mkdir()
    tiny_lora.write_kohya(root / "loras" / "style.safetensors", seed=1)
    tiny_lora.write_kohya(root / "loras" / "unet.safetensors", tiny_lora.targets(parts=["unet"]), seed=2)
    tiny_controlnet.write_folder(root / "controlnet" / "edges", tiny_controlnet.controlnet(model.unet))
    return root


@pytest.fixture(scope="module")
def find(root: Path) -> Find:
    library = Library([root])
    return lambda kind, name, field: library.find(kind, name, field).path


def wearing(*loras: Lora, **fields: object) -> ImageRequest:
    return REQUEST.model_copy(update={"loras": loras, **fields})


def test_a_lora_named_twice_acts_with_the_sum_of_its_weights(model: Model, root: Path) -> None:
    twice = wearing(Lora(name="style", weight=0.5, text_weight=0.1), Lora(name="style.safetensors", weight=0.25))
    once = wearing(Lora(name="style", weight=0.75, text_weight=0.35))
    assert torch.equal(latents(model, twice, root), latents(model, once, root))
    taken_off = wearing(Lora(name="style", weight=0.5), Lora(name="style", weight=-0.5))
    assert torch.equal(latents(model, taken_off, root), latents(model, REQUEST, root))


def test_pictures_wear_the_same_when_loras_weights_and_edges_are_equal(model: Model, find: Find) -> None:
    def key(request: ImageRequest) -> object:
        return dress(model, request, find)[0].key

    assert key(wearing(Lora(name="style"))) == key(wearing(Lora(name="STYLE.safetensors", text_weight=1.0)))
    others = [
        wearing(),
        wearing(Lora(name="style")),
        wearing(Lora(name="style", weight=0.9)),
        wearing(Lora(name="style", text_weight=0.9)),
        wearing(Lora(name="unet")),
        wearing(Lora(name="style"), Lora(name="unet")),
        wearing(tiling="x"),
    ]
    assert len({key(request) for request in others}) == len(others)


def test_a_lora_of_the_text_encoders_has_the_prompt_read_anew_and_one_of_the_unet_has_not(
    model: Model, find: Find
) -> None:
    reads: list[None] = []
    listening = model.text_encoders[0].model.register_forward_hook(lambda *_: reads.append(None))

    def read(request: ImageRequest) -> tuple[torch.Tensor, bool]:
        before = len(reads)
        outfit, _ = dress(model, request, find)
        schedule, _ = outfit.condition(request, (64, 64), 2, False, None, None)
        return schedule.at(0).positive.embeddings, len(reads) > before

    plain, _ = read(wearing(prompt="a dog"))
    with_unet, again = read(wearing(Lora(name="unet"), prompt="a dog"))
    assert torch.equal(with_unet, plain) and not again
    with_style, again = read(wearing(Lora(name="style"), prompt="a dog"))
    assert again and not torch.equal(with_style, plain)
    half, again = read(wearing(Lora(name="style", text_weight=0.5), prompt="a dog"))
    assert again and not torch.equal(half, with_style)
    for request, before in (
        (wearing(prompt="a dog"), plain),
        (wearing(Lora(name="style"), prompt="a dog"), with_style),
    ):
        embeddings, again = read(request)
        assert torch.equal(embeddings, before) and not again
    listening.remove()


def test_a_guide_of_the_whole_picture_follows_the_region_that_is_drawn(model: Model, root: Path) -> None:
    picture, mask, guide = photo(128, 96), rectangle(128, 96, (64, 32, 96, 64)), photo(128, 96, seed=7)
    small = (
        Image.fromarray(guide).resize((64, 48), Image.Resampling.NEAREST).resize((128, 96), Image.Resampling.NEAREST)
    )
    fields = {"mask_blur": 0, "mask_padding": 16, "only_masked": True, "strength": 0.8}

    def drawn(picture: np.ndarray, mask: np.ndarray, guide: np.ndarray) -> torch.Tensor:
        control = (Control(model="edges", image=png(guide)),)
        sent = {"init_image": png(picture), "mask": png(mask), "control": control}
        return latents(model, REQUEST.model_copy(update={**fields, **sent}), root)

    region = np.s_[16:80, 48:112]
    whole = drawn(picture, mask, guide)
    assert torch.equal(whole, drawn(picture[region], mask[region], guide[region]))
    assert not torch.equal(whole, drawn(picture, mask, guide[::-1]))
    assert not torch.equal(whole, drawn(picture, mask, np.asarray(small)))


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"loras": (Lora(name="stile"),)}, "loras", "Did you mean “style”"),
        ({"control": (Control(model="edge", image=png(photo(8, 8))),)}, "control", "Did you mean “edges”"),
    ],
)
def test_what_is_missing_is_refused_with_the_nearest_name(
    model: Model, root: Path, fields: dict[str, object], field: str, said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        latents(model, REQUEST.model_copy(update=fields), root)
    assert refused.value.field == field


def test_nothing_worn_has_no_guides_and_leaves_the_model_as_it_is(model: Model, find: Find) -> None:
    outfit, warnings = dress(model, REQUEST, find)
    assert outfit == Outfit(model, (), "none")
    assert warnings == []
