"""What a request leaves open, decided: which model, and what its family is best drawn with.

Done once, before a job is stored, so that a job says everything that its picture depends on.
"""

from typing import Any

from illustrious.catalog.identity import TITLES, Identity
from illustrious.catalog.library import Entry, Library
from illustrious.catalog.profiles import Profile, profile
from illustrious.errors import InvalidRequest
from illustrious.types import ImageRequest

LEFT_TO_THE_FAMILY = ("steps", "guidance", "guidance_rescale", "clip_skip", "prompt_prefix", "negative_prompt")
"""Fields that a profile fills one by one. Sampler and schedule go together, and so do width and height."""


def determine(request: ImageRequest, library: Library) -> tuple[ImageRequest, tuple[str, ...]]:
    """The request with nothing left open that the catalogue can decide, and warnings.

    What is unset (not in ``model_fields_set``, or ``None``) is filled from the profile of the model's family. Raises
    ``InvalidRequest`` for models, LoRAs, VAEs and ControlNets that are not there, and for models of another kind.
    """
    entry = library.checkpoint(request.model)
    identity = library.identity(entry)
    if request.model is not None and (reason := unfit(entry, identity)):
        raise InvalidRequest(reason, field="model")
    for lora in request.loras:
        library.find("lora", lora.name, field="loras")
    for control in request.control:
        library.find("controlnet", control.model, field="control")
    if request.vae is not None:
        library.find("vae", request.vae, field="vae")
    best = profile(identity)
    filled = {"model": entry.name, **_filled(request, best)}
    determined = request.model_copy(update=filled)
    return determined, tuple(_warnings(determined, best))


def unfit(entry: Entry, identity: Identity) -> str | None:
    """Why the checkpoint cannot be drawn with, with the remedy; ``None`` when it can."""
    if identity.problem is not None or identity.draws:
        return identity.problem
    if identity.prediction is not None and identity.prediction.is_edm:
        return f"“{entry.name}” predicts as EDM models do, which this studio does not draw with. Choose another."
    what = TITLES[identity.base] if identity.base else "no checkpoint"
    return f"“{entry.name}” is {what}, and this studio draws with models of the SDXL family. Choose another."


def _filled(request: ImageRequest, best: Profile) -> dict[str, Any]:
    def is_open(name: str) -> bool:
        return name not in request.model_fields_set or getattr(request, name) is None

    fields = [name for name in LEFT_TO_THE_FAMILY if is_open(name)]
    if is_open("sampler"):  # one that was chosen may name its schedule, or not go with the family's
        fields += [name for name in ("sampler", "schedule") if is_open(name)]
    filled = {name: value for name in fields if (value := getattr(best, name)) is not None}
    if best.buckets and request.init_image is None:  # else the picture sent in says what is left open
        width, height = best.buckets[0]
        filled |= {"width": request.width or width, "height": request.height or height}
    return filled


def _warnings(request: ImageRequest, best: Profile) -> list[str]:
    if best.pixels is None or request.width is None or request.height is None or request.init_image is not None:
        return []
    least, most = best.pixels
    pixels = request.width * request.height
    if least <= pixels <= most:
        return []
    shape = request.width / request.height
    near = min(best.buckets, key=lambda size: abs(size[0] / size[1] - shape))
    fate = "cropped and blurred" if pixels < least else "with things in it twice"
    remedy = "have it enlarged afterwards (hires)" if pixels > most else "scale the picture down afterwards"
    return [
        f"{request.width}×{request.height} is far from what this model was trained on, and pictures come out {fate}. "
        f"Draw {near[0]}×{near[1]} and {remedy}."
    ]
