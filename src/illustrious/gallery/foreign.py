"""How a picture was made, read from its file: what the studio, AUTOMATIC1111 and its kin, ComfyUI and InvokeAI write.

Nothing here fails. What is broken or not understood is left out, and a file may say anything at all: every value is
checked for its type, and texts are made storable.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image
from pydantic import Field

from illustrious import parameters
from illustrious.types import SEED_LIMIT, Noun


class Recipe(Noun):
    """What a file says of its making, and which ``tool`` wrote it. ``parameters`` has ``ImageRequest``'s names where
    there is one, and under ``settings`` all of them as written."""

    tool: str
    prompt: str = ""
    negative_prompt: str = ""
    seed: int | None = None
    model: str | None = None
    model_hash: str | None = None
    lora_hashes: dict[str, str] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


def read(picture: Image.Image) -> Recipe | None:
    """What the opened and loaded picture's file says; ``None`` when it says nothing that is understood."""
    text = parameters.read(picture)
    if text and text.strip():
        return automatic1111(text)
    readers = {"invokeai_metadata": invokeai, "sd-metadata": invokeai_2, "prompt": comfyui}
    for key, reader in readers.items():
        content = _json(picture.info.get(key))
        if isinstance(content, dict) and (recipe := reader(content)) is not None:
            return recipe
    return None


HASH_LIST = re.compile(r"\s*([^:,]+):\s*([0-9a-fA-F]+)\s*(?:,|$)")


def automatic1111(text: str) -> Recipe:
    """The ``parameters`` text (see ``illustrious.parameters``)."""
    found = parameters.parse(_storable(text))
    settings = found.settings
    width, _, height = settings.get("Size", "").partition("x")
    loras = {name.strip(): value for name, value in HASH_LIST.findall(settings.get("Lora hashes", ""))}
    return _recipe(
        "studio" if settings.get("Version", "").startswith("Illustrious AI Studio") else "automatic1111",
        prompt=found.prompt,
        negative_prompt=found.negative_prompt,
        seed=settings.get("Seed"),
        model=settings.get("Model"),
        model_hash=settings.get("Model hash"),
        lora_hashes=loras,
        steps=settings.get("Steps"),
        guidance=settings.get("CFG scale"),
        sampler=settings.get("Sampler"),
        schedule=settings.get("Schedule type"),
        clip_skip=settings.get("Clip skip"),
        width=width,
        height=height,
        settings=dict(settings),
    )


def invokeai(content: Mapping[str, Any]) -> Recipe:
    """``invokeai_metadata``, InvokeAI 3 and later: one flat object."""
    model = _object(content.get("model"))
    loras: dict[str, str] = {}
    for entry in _list(content.get("loras")):
        lora = _object(_object(entry).get("model") or _object(entry).get("lora"))
        name = _text(lora.get("name") or lora.get("model_name"))
        if name:
            loras[name] = _text(lora.get("hash")) or ""
    return _recipe(
        "invokeai",
        prompt=content.get("positive_prompt"),
        negative_prompt=content.get("negative_prompt"),
        seed=content.get("seed"),
        model=model.get("name") or model.get("model_name"),
        model_hash=model.get("hash"),
        lora_hashes=loras,
        steps=content.get("steps"),
        guidance=content.get("cfg_scale"),
        sampler=content.get("scheduler"),
        width=content.get("width"),
        height=content.get("height"),
    )


def invokeai_2(content: Mapping[str, Any]) -> Recipe:
    """``sd-metadata``, InvokeAI 2: the negative words stand in the prompt, in square brackets."""
    image = _object(content.get("image"))
    prompts = image.get("prompt")
    texts = [prompts] if isinstance(prompts, str) else [_object(part).get("prompt") for part in _list(prompts)]
    whole = " ".join(text for text in map(_text, texts) if text)
    return _recipe(
        "invokeai",
        prompt=re.sub(r"\s*\[[^\]]*\]", "", whole).strip(),
        negative_prompt=", ".join(re.findall(r"\[([^\]]*)\]", whole)),
        seed=image.get("seed"),
        model=content.get("model_weights"),
        model_hash=content.get("model_hash"),
        steps=image.get("steps"),
        guidance=image.get("cfg_scale"),
        sampler=image.get("sampler"),
        width=image.get("width"),
        height=image.get("height"),
    )


Graph = Mapping[str, Any]

# ComfyUI writes the graph that was run: {node id: {"class_type": …, "inputs": {name: value or [node id, output]}}}.
# What made the picture is found by walking the links backwards from its sampler.

TEXTS = ("text", "text_g", "text_l", "t5xxl", "clip_l", "string", "value", "prompt", "populated_text")
CONDITIONS = ("positive", "conditioning", "conditioning_1", "conditioning_2", "conditioning_to", "conditioning_from")
MODELS = ("ckpt_name", "unet_name", "model_name")
ONWARDS = ("model", "guider", "clip", "model1")
FARTHEST = 1000
"""Nodes looked at in one walk; larger graphs are as good as endless."""


def comfyui(graph: Graph) -> Recipe | None:
    """The graph in the chunk ``prompt``; ``None`` when no sampler is in it."""
    samplers = [node for node in map(_object, graph.values()) if "Sampler" in (_text(node.get("class_type")) or "")]
    drawing = [_inputs(node) for node in samplers if "positive" in _inputs(node) or "guider" in _inputs(node)]
    if not drawing:
        return None
    # With a second pass over the same picture, the first one drew it: it denoises all the way.
    sampler = next((inputs for inputs in drawing if inputs.get("denoise", 1) in (1, 1.0)), drawing[0])
    guider = _inputs(_linked(graph, sampler.get("guider"))) if "guider" in sampler else sampler
    chain = list(_upstream(graph, guider, ONWARDS))
    names = [name for inputs in chain if (name := _first_text(inputs, MODELS))]
    loras = {name: "" for inputs in chain if (name := _text(inputs.get("lora_name")))}
    return _recipe(
        "comfyui",
        prompt=_prompt(graph, guider.get("positive", guider.get("conditioning"))),
        negative_prompt=_prompt(graph, guider.get("negative")),
        seed=_value(graph, sampler, ("seed", "noise_seed", "noise"), ("seed", "noise_seed", "value")),
        model=names[0] if names else None,
        lora_hashes=loras,
        steps=_value(graph, sampler, ("steps", "sigmas"), ("steps", "value")),
        guidance=_value(graph, guider, ("cfg",), ("cfg", "value")),
        sampler=_value(graph, sampler, ("sampler_name", "sampler"), ("sampler_name", "value")),
        schedule=_value(graph, sampler, ("scheduler", "sigmas"), ("scheduler", "value")),
    )


def _linked(graph: Graph, link: object) -> Mapping[str, Any]:
    match link:
        case [str(node), int(_)] | [int(node), int(_)]:
            return _object(graph.get(str(node)))
    return {}


def _inputs(node: Mapping[str, Any]) -> Mapping[str, Any]:
    return _object(node.get("inputs"))


def _upstream(graph: Graph, start: Graph, names: tuple[str, ...]) -> Iterator[Graph]:
    """The inputs of each node that ``start``'s inputs of these names lead to, near ones first, each once."""
    waiting, seen = [start], set[int]()
    while waiting and len(seen) < FARTHEST:
        inputs = waiting.pop(0)
        if id(inputs) in seen:
            continue
        seen.add(id(inputs))
        yield inputs
        waiting += [_inputs(node) for name in names if (node := _linked(graph, inputs.get(name)))]


def _prompt(graph: Graph, link: object) -> str:
    """The texts that a conditioning is made of. What is encoded twice alike (SDXL's two encoders) is said once."""
    start = {"conditioning": link}
    texts: list[str] = []
    for inputs in _upstream(graph, start, (*CONDITIONS, *TEXTS)):
        texts += [text for name in TEXTS if (text := _text(inputs.get(name)))]
    return "\n".join(dict.fromkeys(texts))


def _value(graph: Graph, inputs: Graph, names: tuple[str, ...], linked: tuple[str, ...]) -> object:
    """An input given directly under one of ``names``, or by a linked node under one of ``linked``."""
    for name in names:
        given = inputs.get(name)
        if isinstance(given, str | int | float):
            return given
        node = _inputs(_linked(graph, given))
        for other in linked:
            if isinstance(node.get(other), str | int | float):
                return node[other]
    return None


def _recipe(tool: str, *, settings: dict[str, str] | None = None, **found: Any) -> Recipe:
    """Each value as what it must be, or left out."""
    request = {
        "prompt": _text(found.get("prompt")) or "",
        "negative_prompt": _text(found.get("negative_prompt")) or "",
        "width": _whole(found.get("width")),
        "height": _whole(found.get("height")),
        "steps": _whole(found.get("steps")),
        "guidance": _number(found.get("guidance")),
        "seed": _whole(found.get("seed")),
        "model": _text(found.get("model")),
        "sampler": _text(found.get("sampler")),
        "schedule": _text(found.get("schedule")),
        "clip_skip": _whole(found.get("clip_skip")),
        "settings": settings,
    }
    loras = {_storable(name): _storable(value) for name, value in (found.get("lora_hashes") or {}).items()}
    return Recipe(
        tool=tool,
        prompt=request["prompt"],
        negative_prompt=request["negative_prompt"],
        seed=request["seed"],
        model=request["model"],
        model_hash=_text(found.get("model_hash")),
        lora_hashes=loras or None,
        parameters={name: value for name, value in request.items() if value is not None},
    )


def _json(text: object) -> object:
    if not isinstance(text, str | bytes):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _first_text(inputs: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((text for name in names if (text := _text(inputs.get(name)))), None)


def _text(value: object) -> str | None:
    return _storable(value) if isinstance(value, str) and value else None


def _storable(text: str) -> str:
    """Without what no database or answer can carry: half a surrogate pair, and zero characters."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _whole(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) and 0 <= number <= SEED_LIMIT else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
