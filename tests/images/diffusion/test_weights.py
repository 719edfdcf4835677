"""A model is whole or it is not loaded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from illustrious.errors import Unavailable
from illustrious.images.diffusion.checkpoint import open_checkpoint, starter_folder
from illustrious.images.diffusion.parts import Part
from illustrious.images.diffusion.placement import Placement
from illustrious.images.diffusion.weights import assemble

CPU = Placement(torch.device("cpu"), "cpu", torch.float32)
HALF = Placement(torch.device("cpu"), "cpu", torch.float16)


@pytest.fixture(scope="module")
def vae() -> Part:
    return open_checkpoint(starter_folder()).vae


def changed(part: Part, **tensors: Tensor | None) -> Part:
    """The part with these tensors added or replaced, or left out where they are ``None``."""
    values = {**part.tensors, **tensors}
    return replace(part, tensors={name: value for name, value in values.items() if value is not None})


def test_every_value_is_the_files(vae: Part) -> None:
    model = assemble(vae, CPU)
    values = model.state_dict()
    assert {name: value.dtype for name, value in values.items()} == dict.fromkeys(vae.tensors, torch.float32)
    assert all(torch.equal(value, vae.tensors[name].float()) for name, value in values.items())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_weights_in_the_right_dtype_stay_where_the_file_is_mapped(vae: Part) -> None:
    model = assemble(vae, HALF)
    assert all(value.data_ptr() == vae.tensors[name].data_ptr() for name, value in model.state_dict().items())


def test_nothing_is_left_without_values(single_file: Path) -> None:
    for part in open_checkpoint(single_file).text_encoders:
        model = assemble(part, CPU)
        assert not any(value.is_meta for value in (*model.parameters(), *model.buffers()))


def first_name(part: Part) -> str:
    return sorted(part.tensors)[0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_no_numbers_are_refused(vae: Part, value: float) -> None:
    name = first_name(vae)
    damaged = vae.tensors[name].clone()
    damaged.view(-1)[-1] = value
    with pytest.raises(Unavailable, match="damaged"):
        assemble(changed(vae, **{name: damaged}), CPU)


def test_a_missing_tensor_is_named_and_never_random(vae: Part) -> None:
    with pytest.raises(Unavailable, match="lacks 1 of its tensors") as refusal:
        assemble(changed(vae, **{first_name(vae): None}), CPU)
    assert first_name(vae) in str(refusal.value)


def test_an_unknown_tensor_and_a_wrong_shape_are_named(vae: Part) -> None:
    with pytest.raises(Unavailable, match=r"belong to no SDXL model.*dreams"):
        assemble(changed(vae, dreams=torch.zeros(1)), CPU)
    with pytest.raises(Unavailable, match="wrong shape"):
        assemble(changed(vae, **{first_name(vae): torch.zeros(1, 2, 3)}), CPU)


def test_a_configuration_that_describes_no_model_is_refused(vae: Part) -> None:
    unet = open_checkpoint(starter_folder()).unet
    with pytest.raises(Unavailable, match="cannot be built"):
        assemble(replace(unet, config={**unet.config, "down_block_types": ["DreamBlock"]}), CPU)


def test_attention_of_old_autoencoders_goes_by_its_old_names(folder: Path) -> None:
    vae = open_checkpoint(folder).vae
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def aged(name: str) -> str:
        for after, before in old.items():
            name = name.replace(f".{after}.", f".{before}.")
        return name

    aged_part = replace(vae, tensors={aged(name): value for name, value in vae.tensors.items()})
    assert aged_part.tensors.keys() != vae.tensors.keys()
    now, then = assemble(vae, CPU).state_dict(), assemble(aged_part, CPU).state_dict()
    assert all(torch.equal(now[name], then[name]) for name in now)
