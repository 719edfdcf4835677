"""Every convention of naming leads to the same layers."""

import pytest

from illustrious.images.diffusion.lora_keys import Layer, LayerNames, split
from tests import tiny, tiny_lora


@pytest.fixture(scope="module")
def names() -> LayerNames:
    pipeline = tiny.Tiny().pipeline()
    parts = {part: getattr(pipeline, part) for part in tiny_lora.PARTS}
    return LayerNames(parts)


def test_every_layer_is_found_by_all_its_names(names: LayerNames) -> None:
    targets = list(tiny_lora.targets())
    found = set()
    for target in targets:
        kohya = [f"{tiny_lora.KOHYA[target.part]}_{name.replace('.', '_')}" for name in (target.ldm, target.diffusers)]
        layers = {names.find(name) for name in (*kohya, f"{target.part}.{target.diffusers}")}
        (layer,) = layers
        assert layer is not None
        assert layer.part == target.part
        assert names.modules[layer].weight.shape == target.shape
        found.add(layer)
    assert len(found) == len(targets)
    assert found == names.modules.keys()


ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"


@pytest.mark.parametrize(
    ("key", "layer", "role"),
    [
        ("lora_unet_input_blocks_3_1_proj_in.lora_down.weight", "down_blocks.1.attentions.0.proj_in", "down"),
        ("lora_unet_input_blocks_3_1_proj_in.alpha", "down_blocks.1.attentions.0.proj_in", "alpha"),
        ("lora_unet_down_blocks_0_resnets_0_conv1.lora_mid.weight", "down_blocks.0.resnets.0.conv1", "mid"),
        ("lora_unet_out_2.lora_up.weight", "conv_out", "up"),
        ("lycoris_mid_block_attentions_0_proj_in.hada_w1_a", "mid_block.attentions.0.proj_in", "hada_w1_a"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_t2", "mid_block.attentions.0.proj_in", "lokr_t2"),
        (f"unet.{ATTENTION}.to_out.0.lora_A.weight", f"{ATTENTION}.to_out.0", "down"),
        (f"{ATTENTION}.to_out.0.lora_B.weight", f"{ATTENTION}.to_out.0", "up"),
        (f"base_model.model.{ATTENTION}.to_q.lora_B.default.weight", f"{ATTENTION}.to_q", "up"),
        (f"unet.{ATTENTION}.to_q.lora.down.weight", f"{ATTENTION}.to_q", "down"),
        (f"unet.{ATTENTION}.processor.to_q_lora.down.weight", f"{ATTENTION}.to_q", "down"),
        (f"unet.{ATTENTION}.processor.to_out_lora.up.weight", f"{ATTENTION}.to_out.0", "up"),
        ("diffusion_model.input_blocks.3.1.proj_in.lora_A.weight", "down_blocks.1.attentions.0.proj_in", "down"),
    ],
)
def test_keys_of_the_unet(names: LayerNames, key: str, layer: str, role: str) -> None:
    name, found_role = split(key) or ("", "")
    assert (names.find(name), found_role) == (Layer("unet", layer), role)


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
@pytest.mark.parametrize(
    "key",
    [
        "lora_te{number}_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight",
        "{part}.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
        "{part}.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight",
        "{part}.text_model.encoder.layers.0.self_attn.to_q_lora.down.weight",
        "{part}.encoder.layers.0.self_attn.q_proj.lora_A.weight",
    ],
)
def test_keys_of_the_text_encoders_with_or_without_the_inner_model(names: LayerNames, key: str, part: str) -> None:
    number = 2 if part.endswith("2") else 1
    name, role = split(key.format(part=part, number=number)) or ("", "")
    layer = names.find(name)
    assert layer is not None
    assert layer.part == part
    assert layer.name.removeprefix("text_model.") == "encoder.layers.0.self_attn.q_proj"
    assert role == "down"


@pytest.mark.parametrize(
    "key",
    [
        "model.diffusion_model.input_blocks.0.0.weight",
        "conv_in.weight",
        "clip_l",
        "lora_unet_mid_block_attentions_0_norm.w_norm",
    ],
)
def test_keys_of_other_files_have_no_role(key: str) -> None:
    assert split(key) is None
