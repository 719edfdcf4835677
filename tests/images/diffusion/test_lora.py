"""LoRA files as they come: every layout, what is left out, and what is refused."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from illustrious.errors import InvalidRequest
from illustrious.images.diffusion import lora as lora_module
from illustrious.images.diffusion.deltas import Hadamard, Kronecker
from illustrious.images.diffusion.lora import LoadedLora, load_lora
from illustrious.images.diffusion.lora_keys import Layer, LayerNames
from tests import tiny, tiny_lora

Load = Callable[..., LoadedLora]

UNET = list(tiny_lora.targets(parts=["unet"]))
FEW = UNET[10:14]


@pytest.fixture(scope="module")
def load() -> Load:
    pipeline = tiny.Tiny().pipeline()
    names = LayerNames({part: getattr(pipeline, part) for part in tiny_lora.PARTS})

    def load(path: Path, prediction: str = "epsilon", dtype: torch.dtype = torch.float32) -> LoadedLora:
        return load_lora(path, names, prediction, torch.device("cpu"), dtype)

    return load


def assert_same(one: LoadedLora, other: LoadedLora) -> None:
    assert one.deltas.keys() == other.deltas.keys()
    for layer, change in one.deltas.items():
        assert change.scale == other.deltas[layer].scale
        for role, tensor in change.tensors.items():
            assert torch.equal(tensor, other.deltas[layer].tensors[role])


def renamed(file: Path, names: Callable[[str], str]) -> Path:
    save_file({names(key): tensor for key, tensor in load_file(file).items()}, file)
    return file


def test_the_layouts_hold_the_same_lora(load: Load, tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    reference = load(tiny_lora.write_kohya(file, alpha=None))
    assert reference.warnings == ()
    assert len(reference.deltas) == len(list(tiny_lora.targets()))
    assert_same(load(tiny_lora.write_kohya(file, names="diffusers", alpha=None)), reference)
    assert_same(load(tiny_lora.write_peft(file)), reference)


def test_those_that_came_with_the_studio_must_be_what_they_were(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_module, "SHIPPED_LORAS", tmp_path)
    file = tiny_lora.write_kohya(tmp_path / "style.safetensors", FEW)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  {file.name}\n")
    assert len(load(file).deltas) == len(FEW)
    tiny_lora.write_kohya(file, FEW, seed=1)
    with pytest.raises(InvalidRequest, match=r"^The LoRA style is damaged .*Install the studio again") as refused:
        load(file)
    assert refused.value.field == "loras"


def test_the_layout_of_diffusers_before_0_22(load: Load, tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    layers = [layer for layer in tiny_lora.targets() if ".attn" in layer.diffusers or "self_attn" in layer.diffusers]
    reference = load(tiny_lora.write_peft(file, layers))

    def old(key: str) -> str:
        key = key.replace(".lora_A.", "_lora.down.").replace(".lora_B.", "_lora.up.")
        if key.startswith("unet"):
            return key.replace(".to_out.0_", ".to_out_").replace(".to_", ".processor.to_")
        projections = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
        return next(key.replace(new, before) for new, before in projections.items() if new in key)

    assert_same(load(renamed(file, old)), reference)


def test_alpha_is_taken_from_the_settings_that_diffusers_writes(load: Load, tmp_path: Path) -> None:
    first, second, *_ = FEW
    settings = {
        "unet.r": 4,
        "unet.lora_alpha": 8,
        "unet.alpha_pattern": {second.diffusers: 2},
        "text_encoder.lora_alpha": 1000,
    }
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    lora = load(tiny_lora.write_peft(tmp_path / "style.safetensors", [first, second], metadata=metadata))
    scales = {layer.name: change.scale for layer, change in lora.deltas.items()}
    assert scales == {first.diffusers: 2.0, second.diffusers: 0.5}


def test_alpha_is_taken_from_the_settings_that_peft_writes_beside_the_file(load: Load, tmp_path: Path) -> None:
    unet = tiny.Tiny().pipeline().unet
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["to_q"], use_rslora=True, init_lora_weights=False)
    peft.get_peft_model(unet, config).save_pretrained(tmp_path)
    lora = load(tmp_path / "adapter_model.safetensors")
    assert lora.warnings == ()
    assert {layer.name.rpartition(".")[2] for layer in lora.deltas} == {"to_q"}
    assert {change.scale for change in lora.deltas.values()} == {3.0}


def test_loha_and_lokr_come_in_kohyas_layout(load: Load, tmp_path: Path) -> None:
    loha, lokr, *_ = (layer for layer in UNET if ".ff.net" in layer.diffusers)
    outputs, inputs = lokr.shape
    tensors = {
        "hada_w1_a": torch.ones(loha.shape[0], 4),
        "hada_w1_b": torch.ones(4, loha.shape[1]),
        "hada_w2_a": torch.ones(loha.shape[0], 4),
        "hada_w2_b": torch.ones(4, loha.shape[1]),
        "alpha": torch.tensor(1.0),
    }
    file = {f"lora_unet_{loha.ldm.replace('.', '_')}.{role}": tensor for role, tensor in tensors.items()}
    tensors = {
        "lokr_w1": torch.ones(2, 4),
        "lokr_w2_a": torch.ones(outputs // 2, 8),
        "lokr_w2_b": torch.ones(8, inputs // 4),
        "alpha": torch.tensor(1.0),
    }
    file |= {f"lycoris_{lokr.diffusers.replace('.', '_')}.{role}": tensor for role, tensor in tensors.items()}
    save_file(file, tmp_path / "style.safetensors")
    lora = load(tmp_path / "style.safetensors")
    assert lora.warnings == ()
    kinds = {layer.name: (type(change), change.scale) for layer, change in lora.deltas.items()}
    assert kinds == {loha.diffusers: (Hadamard, 1 / 4), lokr.diffusers: (Kronecker, 1 / 8)}


@pytest.mark.parametrize("settings", ["[]", "{", '{"lora_alpha": "many"}', '{"alpha_pattern": null}'])
def test_settings_that_make_no_sense_are_as_good_as_none(load: Load, tmp_path: Path, settings: str) -> None:
    metadata = {"lora_adapter_metadata": settings}
    lora = load(tiny_lora.write_peft(tmp_path / "style.safetensors", FEW, metadata=metadata))
    assert {change.scale for change in lora.deltas.values()} == {1.0}


def test_what_matches_nothing_is_left_out_and_counted(load: Load, tmp_path: Path) -> None:
    file = tiny_lora.write_kohya(tmp_path / "style.safetensors", FEW)
    further = {"lora_unet_elsewhere.lora_up.weight": torch.zeros(2, 2), "what.is.this": torch.zeros(1)}
    save_file({**load_file(file), **further}, file)
    lora = load(file)
    assert len(lora.deltas) == 4
    (warning,) = lora.warnings
    assert "without 2 of its 14 tensors" in warning
    assert "lora_unet_elsewhere.lora_up.weight" in warning


def test_a_layer_named_twice_is_changed_once(load: Load, tmp_path: Path) -> None:
    file, again = tmp_path / "style.safetensors", tmp_path / "again.safetensors"
    reference = load(tiny_lora.write_kohya(file, FEW))
    tiny_lora.write_kohya(again, FEW, names="diffusers")
    save_file({**load_file(file), **load_file(again)}, file)
    lora = load(file)
    assert lora.deltas.keys() == reference.deltas.keys()
    assert "without 12 of its 24 tensors" in lora.warnings[0]


@pytest.mark.parametrize(
    ("metadata", "prediction", "said"),
    [
        ({"ss_base_model_version": "sd_v1"}, "epsilon", "made for sd_v1"),
        ({"modelspec.architecture": "flux-1-dev/lora"}, "epsilon", "made for flux-1-dev/lora"),
        ({"modelspec.prediction_type": "v"}, "epsilon", "predicts velocity (v), and this one predicts noise (epsilon)"),
        ({"modelspec.prediction_type": "epsilon"}, "v_prediction", "predicts noise (epsilon), and this one"),
        ({"ss_v_parameterization": "True"}, "epsilon", "predicts velocity (v), and this one predicts noise (epsilon)"),
    ],
)
def test_a_lora_made_for_something_else_is_used_with_a_warning(
    load: Load, tmp_path: Path, metadata: dict[str, str], prediction: str, said: str
) -> None:
    lora = load(tiny_lora.write_kohya(tmp_path / "style.safetensors", FEW, metadata=metadata), prediction)
    (warning,) = lora.warnings
    assert "The LoRA style" in warning
    assert said in warning


@pytest.mark.parametrize(
    ("metadata", "prediction"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0", "modelspec.prediction_type": "epsilon"}, "epsilon"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "v_prediction"),
        ({"ss_base_model_version": "Illustrious", "ss_v_parameterization": "True"}, "v_prediction"),
        ({"ss_v_parameterization": "False"}, "epsilon"),
    ],
)
def test_a_lora_made_for_this_kind_of_model_is_used_without(
    load: Load, tmp_path: Path, metadata: dict[str, str], prediction: str
) -> None:
    lora = load(tiny_lora.write_kohya(tmp_path / "style.safetensors", FEW, metadata=metadata), prediction)
    assert lora.warnings == ()


def refused(load: Load, file: Path) -> str:
    with pytest.raises(InvalidRequest) as error:
        load(file)
    assert error.value.field == "loras"
    return str(error.value)


def test_one_of_another_family_is_refused_by_the_family_it_names(load: Load, tmp_path: Path) -> None:
    wider = [replace(layer, shape=(2 * layer.shape[0], *layer.shape[1:])) for layer in FEW]
    metadata = {"ss_base_model_version": "sd_v1"}
    said = refused(load, tiny_lora.write_kohya(tmp_path / "style.safetensors", wider, metadata=metadata))
    assert "The LoRA style does not fit this model" in said
    assert "made for sd_v1" in said
    assert "Choose one for SDXL" in said


def test_one_whose_names_match_nothing_is_refused(load: Load, tmp_path: Path) -> None:
    save_file(
        {"lora_unet_double_blocks_0_img_mlp_0.lora_down.weight": torch.zeros(2, 2)}, tmp_path / "flux.safetensors"
    )
    said = refused(load, tmp_path / "flux.safetensors")
    assert "lora_unet_double_blocks_0" in said
    assert "Choose one for SDXL" in said


def test_half_a_pair_is_refused(load: Load, tmp_path: Path) -> None:
    file = tiny_lora.write_kohya(tmp_path / "style.safetensors", FEW)
    tensors = load_file(file)
    del tensors[next(key for key in tensors if key.endswith("lora_up.weight"))]
    save_file(tensors, file)
    assert "up is missing" in refused(load, file)


def test_a_file_that_is_no_lora_is_refused(load: Load, tmp_path: Path) -> None:
    checkpoint = tiny.write_single_file(tmp_path / "tiny.safetensors")
    assert "tiny is no LoRA" in refused(load, checkpoint)


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector.default.weight", "DoRA"),
        ("diff", "full-weight difference"),
        ("oft_blocks", "OFT"),
        ("on_input", "(IA)³"),
        ("a1.weight", "GLoRA"),
    ],
)
def test_kinds_that_are_not_applied_are_refused_by_name(load: Load, tmp_path: Path, role: str, kind: str) -> None:
    file = tiny_lora.write_kohya(tmp_path / "style.safetensors", FEW)
    name = f"lora_unet_{FEW[0].ldm.replace('.', '_')}"
    save_file({**load_file(file), f"{name}.{role}": torch.zeros(4, 4)}, file)
    said = refused(load, file)
    assert f"of the kind {kind}" in said
    assert "or leave it out" in said


def test_values_that_are_no_numbers_are_refused_in_the_models_dtype(load: Load, tmp_path: Path) -> None:
    file = tiny_lora.write_kohya(tmp_path / "style.safetensors", FEW)
    tensors = load_file(file)
    up = next(key for key in tensors if key.endswith("lora_up.weight"))
    tensors[up] *= 1e6
    save_file(tensors, file)
    assert load(file).warnings == ()
    with pytest.raises(InvalidRequest, match=r"no numbers in torch\.float16"):
        load(file, dtype=torch.float16)


def test_a_file_that_cannot_be_read_is_refused(load: Load, tmp_path: Path) -> None:
    file = tiny_lora.write_kohya(tmp_path / "style.safetensors", FEW)
    file.write_bytes(file.read_bytes()[:500])
    assert "incomplete" in refused(load, file)
    file.unlink()
    assert "cannot be read" in refused(load, file)
    assert "could run any code" in refused(load, tmp_path / "style.pt")


def test_a_loaded_lora_outlives_its_file(load: Load, tmp_path: Path) -> None:
    file = tiny_lora.write_kohya(tmp_path / "style.safetensors", FEW)
    lora = load(file)
    file.write_bytes(bytes(file.stat().st_size))
    first = lora.deltas[Layer("unet", FEW[0].diffusers)]
    assert all(tensor.any() for tensor in first.tensors.values())


def test_its_size_is_that_of_its_tensors_in_the_models_dtype(load: Load, tmp_path: Path) -> None:
    file = tiny_lora.write_kohya(tmp_path / "style.safetensors", alpha=None)
    values = sum(tensor.numel() for tensor in load_file(file).values())
    assert load(file).size == 4 * values
    assert load(file, dtype=torch.float16).size == 2 * values
