"""A request as it is written → the request as it is drawn: wildcards by its seed, ``<lora:…>`` as LoRAs."""

from illustrious.errors import InvalidRequest
from illustrious.images.diffusion.prompt import extract
from illustrious.images.diffusion.wildcards import Wildcards, draw
from illustrious.types import ImageRequest

LORAS = 32
"""Most LoRAs that act at once."""


def expand(request: ImageRequest, wildcards: Wildcards) -> tuple[ImageRequest, tuple[str, ...]]:
    """The request for this one seed, and warnings. A request of several pictures is expanded once for each seed.

    Expanding again changes nothing more. LoRAs act on the whole picture, so those in the negative prompt are left out.
    A verbatim prompt is left as it is. Raises ``InvalidRequest`` and ``StorageFailed``.
    """
    if request.prompt_syntax == "verbatim":
        return request, ()
    warnings: list[str] = []
    texts: dict[str, str | None] = {}
    loras = list(request.loras)
    for field in ("prompt_prefix", "prompt", "negative_prompt"):
        written = getattr(request, field)
        if written is None:
            continue
        # A generator of its own for each text: a longer prompt leaves what the negative one draws alone.
        drawn, further = draw(written, f"{field} {request.seed}", wildcards)
        texts[field], named, unread = extract(drawn)
        warnings += [*further, *unread]
        if field != "negative_prompt":
            loras += named
        elif named:
            names = ", ".join(lora.name for lora in named)
            warnings.append(
                f"A LoRA has no effect in the negative prompt, so {names} was left out. Name it in the prompt."
            )
    if len(loras) > LORAS:
        raise InvalidRequest(f"{len(loras)} LoRAs are more than the {LORAS} that can act at once.", field="loras")
    return request.model_copy(update={**texts, "loras": tuple(loras)}), tuple(dict.fromkeys(warnings))
