"""How other tools say how a picture was made, and that nothing they might say does harm."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from illustrious.gallery.foreign import Recipe, read
from illustrious.pictures import open_picture


def png(**chunks: str) -> Image.Image:
    about = PngImagePlugin.PngInfo()
    for key, text in chunks.items():
        about.add_text(key.replace("_metadata_2", "-metadata"), text)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=about)
    return open_picture(buffer.getvalue(), 100)


def told(**chunks: object) -> Recipe:
    recipe = read(png(**{key: text if isinstance(text, str) else json.dumps(text) for key, text in chunks.items()}))
    assert recipe is not None
    return recipe


def test_automatic1111() -> None:
    recipe = told(
        parameters="masterpiece, <lora:ink:0.8>\nNegative prompt: lowres\nSteps: 28, Sampler: DPM++ 2M, "
        "Schedule type: Karras, CFG scale: 5.5, Seed: 42, Size: 832x1216, Model hash: 0123abcd, Model: wai-v14, "
        'Lora hashes: "ink: 7c6bad76eb54, line: 11", Version: v1.10.1'
    )
    assert recipe.tool == "automatic1111"
    assert (recipe.prompt, recipe.negative_prompt, recipe.seed) == ("masterpiece, <lora:ink:0.8>", "lowres", 42)
    assert (recipe.model, recipe.model_hash) == ("wai-v14", "0123abcd")
    assert recipe.lora_hashes == {"ink": "7c6bad76eb54", "line": "11"}
    wanted = {"steps": 28, "guidance": 5.5, "sampler": "DPM++ 2M", "schedule": "Karras", "width": 832, "height": 1216}
    assert wanted.items() <= recipe.parameters.items()


def node(kind: str, **inputs: object) -> dict[str, object]:
    return {"class_type": kind, "inputs": inputs}


def graph(**changes: object) -> dict[str, Any]:
    """ComfyUI's own first example, with a LoRA."""
    return {
        "3": node("KSampler", seed=9, steps=20, cfg=8.0, sampler_name="euler", scheduler="normal", denoise=1,
                  model=["10", 0], positive=["6", 0], negative=["7", 0], latent_image=["5", 0]),
        "4": node("CheckpointLoaderSimple", ckpt_name="wai.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=512),
        "6": node("CLIPTextEncode", text="a glass bottle", clip=["10", 1]),
        "7": node("CLIPTextEncode", text="watermark", clip=["10", 1]),
        "9": node("SaveImage", images=["8", 0]),
        "10": node("LoraLoader", lora_name="ink.safetensors", model=["4", 0], clip=["4", 1]),
        **changes,
    }  # fmt: skip


def test_comfyui() -> None:
    recipe = told(prompt=graph(), workflow={"nodes": []})
    assert recipe.tool == "comfyui"
    assert (recipe.prompt, recipe.negative_prompt, recipe.seed) == ("a glass bottle", "watermark", 9)
    assert (recipe.model, recipe.lora_hashes) == ("wai.safetensors", {"ink.safetensors": ""})
    assert {"steps": 20, "guidance": 8.0, "sampler": "euler", "schedule": "normal"}.items() <= recipe.parameters.items()


def test_comfyui_texts_and_numbers_from_other_nodes() -> None:
    changes = {
        "3": node("KSamplerAdvanced", noise_seed=["20", 0], steps=["21", 0], cfg=7, model=["4", 0],
                  positive=["11", 0], negative=["7", 0]),
        "11": node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["12", 0]),
        "6": node("CLIPTextEncodeSDXL", text_g="a fox", text_l="a fox", clip=["4", 1]),
        "12": node("CLIPTextEncode", text=["13", 0]),
        "13": node("StringConstant", string="in the snow"),
        "20": node("Seed", seed=77),
        "21": node("Int", value=12),
    }  # fmt: skip
    recipe = told(prompt=graph(**changes))
    assert (recipe.prompt, recipe.seed, recipe.parameters["steps"]) == ("a fox\nin the snow", 77, 12)


def test_comfyui_custom_sampler() -> None:
    recipe = told(
        prompt={
            "1": node("SamplerCustomAdvanced", noise=["2", 0], guider=["3", 0], sampler=["4", 0], sigmas=["5", 0]),
            "2": node("RandomNoise", noise_seed=31),
            "3": node("CFGGuider", cfg=4.5, model=["6", 0], positive=["7", 0], negative=["8", 0]),
            "4": node("KSamplerSelect", sampler_name="dpmpp_2m"),
            "5": node("BasicScheduler", steps=25, scheduler="karras"),
            "6": node("UNETLoader", unet_name="rouwei.safetensors"),
            "7": node("CLIPTextEncode", text="a harbour"),
            "8": node("CLIPTextEncode", text="fog"),
        }
    )
    assert (recipe.prompt, recipe.negative_prompt, recipe.seed) == ("a harbour", "fog", 31)
    assert recipe.model == "rouwei.safetensors"
    wanted = {"steps": 25, "guidance": 4.5, "sampler": "dpmpp_2m", "schedule": "karras"}
    assert wanted.items() <= recipe.parameters.items()


def test_comfyui_first_pass_counts() -> None:
    second = node("KSampler", seed=1, denoise=0.4, model=["4", 0], positive=["6", 0], negative=["7", 0])
    assert told(prompt={"2": second, **graph()}).seed == 9


def test_comfyui_going_round_in_circles_ends() -> None:
    circle = {"6": node("X", conditioning=["7", 0], text="once"), "7": node("X", conditioning=["6", 0])}
    assert told(prompt=graph(**circle)).prompt == "once"


def test_invokeai() -> None:
    recipe = told(
        invokeai_metadata={
            "positive_prompt": "a moth", "negative_prompt": "dust", "seed": 3, "steps": 30, "cfg_scale": 6.5,
            "scheduler": "euler_a", "width": 64, "height": 32, "model": {"name": "juggernaut", "hash": "blake3:12"},
            "loras": [{"model": {"name": "ink", "hash": "blake3:34"}, "weight": 0.7}],
        }
    )  # fmt: skip
    assert (recipe.tool, recipe.prompt, recipe.negative_prompt, recipe.seed) == ("invokeai", "a moth", "dust", 3)
    assert (recipe.model, recipe.model_hash, recipe.lora_hashes) == ("juggernaut", "blake3:12", {"ink": "blake3:34"})
    assert recipe.parameters["guidance"] == 6.5


def test_invokeai_2() -> None:
    recipe = told(
        sd_metadata_2={
            "model_weights": "sd-1.5",
            "image": {"prompt": [{"prompt": "a moth [dust]", "weight": 1}], "seed": 3, "steps": 30, "sampler": "k_lms"},
        }
    )
    assert (recipe.prompt, recipe.negative_prompt, recipe.model, recipe.seed) == ("a moth", "dust", "sd-1.5", 3)


@pytest.mark.parametrize(
    "chunks",
    [
        {},
        {"prompt": "just words"},
        {"prompt": "[1, 2"},
        {"prompt": "[" * 100_000},
        {"prompt": "null"},
        {"prompt": '{"3": 5, "4": {"inputs": []}}'},
        {"invokeai_metadata": "[]"},
        {"invokeai_metadata": '{"seed": ' + "9" * 5000 + "}"},
        {"parameters": " "},
    ],
)
def test_what_says_nothing_is_nothing(chunks: dict[str, str]) -> None:
    assert read(png(**chunks)) is None


@pytest.mark.parametrize("seed", ["9" * 400, "1e999", "-1", "2.5", "NaN", str(2**64 - 1), "true", '"x"', "[3]", "{}"])
def test_a_number_that_is_no_seed_is_left_out(seed: str) -> None:
    recipe = told(invokeai_metadata=f'{{"positive_prompt": "a", "seed": {seed}}}')
    assert (recipe.prompt, recipe.seed) == ("a", None)


def test_texts_are_made_storable() -> None:
    recipe = told(invokeai_metadata='{"positive_prompt": "a\\u0000\\ud800b", "model": {"name": "\\udfff"}}')
    assert (recipe.prompt, recipe.model) == ("a?b", "?")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(["3", 0]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(
        st.sampled_from(["class_type", "inputs", "positive", "text", "seed", "model", "image", "prompt", "loras", "3"]),
        children,
        max_size=4,
    ),
    max_leaves=15,
)  # fmt: skip


@given(JSON)
def test_nothing_in_a_file_does_harm(content: object) -> None:
    picture = Image.new("RGB", (8, 8))
    sampler = {"1": {"class_type": "KSampler", "inputs": {"positive": content, "negative": ["3", 0], "seed": content}}}
    for key in ("invokeai_metadata", "sd-metadata", "prompt"):
        for said in (content, {**sampler, "3": content}):
            picture.info = {key: json.dumps(said)}
            recipe = read(picture)
            assert recipe is None or json.dumps(recipe.model_dump(), allow_nan=False).encode()
