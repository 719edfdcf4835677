"""Each kind of change against what it is by definition, and LyCORIS' kinds against PEFT's implementation of them."""

import math
import re
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from illustrious.images.diffusion.deltas import AnyLayer, WrongShape, delta, stacked
from illustrious.images.diffusion.tiling import seamless
from tests import tiny_lora

LAYERS = {
    "linear": nn.Linear(24, 36),
    "convolution": nn.Conv2d(8, 12, 3, padding=1, stride=2),
    "circular": nn.Conv2d(8, 12, 3, padding=1, padding_mode="circular"),
    "pointwise": nn.Conv2d(8, 12, 1),
}


def given(layer: AnyLayer) -> Tensor:
    shape = (2, 5, layer.in_features) if isinstance(layer, nn.Linear) else (2, layer.in_channels, 6, 6)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def merged(layer: AnyLayer, change: Tensor) -> Tensor:
    """The layer's output with the change added to its weights."""
    weight = layer.weight + change.reshape(layer.weight.shape)
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(given(layer), weight, layer.bias)
    return layer._conv_forward(given(layer), weight, layer.bias)


def applied(layer: AnyLayer, tensors: dict[str, Tensor], alpha: float | None, weight: float) -> Tensor:
    return delta(tensors, alpha, layer).added_to(layer(given(layer)), layer, given(layer), weight)


def matrices(layer: AnyLayer, rank: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    down, up = tiny_lora.low_rank(tuple(layer.weight.shape), rank, generator)
    return {"down": down, "up": up}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (2.0, 0.5)])
def test_low_rank_is_up_times_down_scaled_by_alpha_over_rank(
    layer: AnyLayer, alpha: float | None, scale: float
) -> None:
    tensors = matrices(layer, rank=4)
    change = tensors["up"].flatten(1) @ tensors["down"].flatten(1) * scale * 0.7
    torch.testing.assert_close(applied(layer, tensors, alpha, weight=0.7), merged(layer, change))


def test_low_rank_in_tucker_form_has_the_kernel_in_the_middle() -> None:
    layer = LAYERS["convolution"]
    down, middle, up = torch.randn(4, 8, 1, 1), torch.randn(4, 4, 3, 3), torch.randn(12, 4, 1, 1)
    change = torch.einsum("or,rskl,si->oikl", up[..., 0, 0], middle, down[..., 0, 0])
    given_tensors = {"down": down, "up": up, "mid": middle}
    torch.testing.assert_close(applied(layer, given_tensors, 4.0, 1.0), merged(layer, change), rtol=1e-4, atol=1e-4)


def test_matrices_of_linear_layers_may_be_stored_as_convolutions_and_the_other_way_round() -> None:
    linear, pointwise = LAYERS["linear"], LAYERS["pointwise"]
    flat = matrices(linear, rank=4)
    stored = {role: tensor[..., None, None] for role, tensor in flat.items()}
    assert torch.equal(applied(linear, stored, 2.0, 1.0), applied(linear, flat, 2.0, 1.0))
    full = matrices(pointwise, rank=4)
    stored = {role: tensor[..., 0, 0] for role, tensor in full.items()}
    assert torch.equal(applied(pointwise, stored, 2.0, 1.0), applied(pointwise, full, 2.0, 1.0))


def test_the_change_wraps_around_where_the_picture_is_seamless() -> None:
    layer = nn.Conv2d(8, 12, 3, padding=1)
    tensors = matrices(layer, rank=4)
    change = tensors["up"].flatten(1) @ tensors["down"].flatten(1)
    with seamless(layer, "both"):
        mine, expected = applied(layer, tensors, None, weight=1.0), merged(layer, change)
    torch.testing.assert_close(mine, expected)
    assert not torch.allclose(mine, merged(layer, change), atol=1e-2)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_several_at_once_are_one_of_the_sum_of_their_ranks(layer: AnyLayer) -> None:
    several = [(delta(matrices(layer, rank, seed=rank), 2.0, layer), weight) for rank, weight in ((2, 0.7), (5, -1.1))]
    (only,) = stacked(several)
    output = layer(given(layer))
    one_by_one = output
    for change, weight in several:
        one_by_one = change.added_to(one_by_one, layer, given(layer), weight)
    torch.testing.assert_close(only[0].added_to(output, layer, given(layer), only[1]), one_by_one)


LYCORIS = [
    ("linear", peft.LoHaConfig, {}),
    ("convolution", peft.LoHaConfig, {}),
    ("convolution", peft.LoHaConfig, {"use_effective_conv2d": True}),
    ("linear", peft.LoKrConfig, {}),
    ("linear", peft.LoKrConfig, {"decompose_both": True, "decompose_factor": 6}),
    ("convolution", peft.LoKrConfig, {}),
    ("convolution", peft.LoKrConfig, {"use_effective_conv2d": True}),
]


@pytest.mark.parametrize(("name", "kind", "options"), LYCORIS)
def test_loha_and_lokr_change_a_layer_as_pefts_do(name: str, kind: Any, options: dict[str, Any]) -> None:
    layer, rank, alpha = LAYERS[name], 2, 3.0
    model = nn.Sequential()
    model.add_module("layer", nn.Linear(24, 36) if name == "linear" else nn.Conv2d(8, 12, 3, padding=1, stride=2))
    model.load_state_dict({f"layer.{key}": value for key, value in layer.state_dict().items()})
    torch.manual_seed(0)
    config = kind(r=rank, alpha=alpha, target_modules=["layer"], init_weights=False, **options)
    adapted = peft.inject_adapter_in_model(config, model)
    tensors = {key.split(".")[1]: value for key, value in adapted.state_dict().items() if re.search("hada|lokr", key)}
    for tensor in tensors.values():
        tensor.normal_(std=0.5)
    # LyCORIS does not scale a product of two whole matrices, and PEFT does.
    factored = any(key.endswith("_b") for key in tensors)
    expected = adapted.layer(given(layer))
    alpha = alpha if factored else None
    mine = applied(layer, tensors, alpha, weight=1.0 if factored else 3.0 / rank)
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, layer(given(layer)), atol=1e-2)


def test_lokr_of_two_whole_matrices_is_not_scaled() -> None:
    tensors = {"lokr_w1": torch.randn(4, 6), "lokr_w2": torch.randn(9, 4)}
    expected = merged(LAYERS["linear"], torch.kron(tensors["lokr_w1"], tensors["lokr_w2"]))
    torch.testing.assert_close(applied(LAYERS["linear"], tensors, 1e10, 1.0), expected)


LINEAR, CONVOLUTION = LAYERS["linear"], LAYERS["convolution"]


@pytest.mark.parametrize(
    ("layer", "tensors"),
    [
        (LINEAR, {"down": torch.zeros(4, 25), "up": torch.zeros(36, 4)}),
        (LINEAR, {"down": torch.zeros(4, 24), "up": torch.zeros(35, 4)}),
        (LINEAR, {"down": torch.zeros(4, 24), "up": torch.zeros(36, 5)}),
        (LINEAR, {"down": torch.zeros(4, 24)}),
        (LINEAR, {"up": torch.zeros(36, 4)}),
        (CONVOLUTION, {"down": torch.zeros(4, 8, 1, 1), "up": torch.zeros(12, 4, 1, 1)}),
        (LINEAR, {"hada_w1_a": torch.zeros(36, 4), "hada_w1_b": torch.zeros(4, 24)}),
        (LINEAR, {"lokr_w1": torch.zeros(4, 6), "lokr_w2": torch.zeros(9, 5)}),
        (LINEAR, {"lokr_w1": torch.zeros(6, 4), "lokr_w2_a": torch.zeros(6, 2), "lokr_w2_b": torch.zeros(3, 6)}),
    ],
)
def test_tensors_of_another_shape_are_refused(layer: AnyLayer, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(WrongShape):
        delta(tensors, 1.0, layer)


def test_a_placed_change_has_tensors_of_its_own() -> None:
    tensors = matrices(LINEAR, rank=4)
    placed = delta(tensors, 1.0, LINEAR).to(torch.device("cpu"), torch.float32)
    tensors["down"].fill_(math.nan)
    assert placed.tensors["down"].isfinite().all()
