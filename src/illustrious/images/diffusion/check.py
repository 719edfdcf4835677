"""What can be told of a request before it waits: in the server's process, without torch and without opening a model.

By the tables and the grammar that the engine draws by, so that what is refused here is what would fail there, and what
is warned of here is warned of there.
"""

from collections.abc import Iterator

from illustrious.catalog.library import Library
from illustrious.errors import InvalidRequest, Unavailable
from illustrious.images.diffusion import hires, samplers
from illustrious.images.diffusion.canvas import lay_out
from illustrious.images.diffusion.expand import expand
from illustrious.images.diffusion.wildcards import WildcardFiles
from illustrious.types import ImageRequest, singles

SMALLEST = 8, 8
"""Stands for the native size of a model that does not tell it."""


def check(request: ImageRequest, library: Library, max_pixels: int) -> tuple[str, ...]:
    """Warnings. The request's model is named, and its seed drawn.

    Raises ``InvalidRequest`` for a sampler, schedule or upscaler that does not exist, for those that do not go with
    one another or with the model, for LoRAs in the prompt that are not there, for a mask without a picture, and for a
    second pass that is too large; ``StorageFailed`` for wildcards that cannot be read.
    """
    if request.init_image is None:
        lay_out(request, SMALLEST, max_pixels)
    _check_second_pass(request, library, max_pixels)
    return tuple(dict.fromkeys((*_sampling(request, library), *_words(request, library))))


def _sampling(request: ImageRequest, library: Library) -> tuple[str, ...]:
    try:
        entry = library.checkpoint(request.model)
    except InvalidRequest:  # the default one, which is gone: the engine says so
        return ()
    identity = library.identity(entry)
    if not identity.draws or identity.prediction is None:  # the engine says why
        return ()
    try:
        folder = entry.path.is_dir()
        own = samplers.of_folder(entry.path) if folder else samplers.of_file(entry.name, identity.prediction)
    except Unavailable as error:
        raise InvalidRequest(str(error), field="model") from error
    sampler, warnings = samplers.choose(own, request.sampler, request.schedule)
    sampler.check(request.steps)
    if request.hires is not None and request.hires.steps is not None:
        sampler.check(request.hires.steps)
    return warnings


def _words(request: ImageRequest, library: Library) -> Iterator[str]:
    """Every picture of the request has a seed of its own, and so wildcards and LoRAs of its own."""
    wildcards = WildcardFiles(library.wildcards())
    for single in singles(request):
        written, warnings = expand(single, wildcards)
        yield from warnings
        for lora in written.loras:
            library.find("lora", lora.name, field="loras" if lora in request.loras else "prompt")


def _check_second_pass(request: ImageRequest, library: Library, max_pixels: int) -> None:
    again = request.hires
    if again is None:
        return
    if hires.latent_kind(again.upscaler) is None and hires.resampling(again.upscaler) is None:
        library.find("upscaler", again.upscaler, field="hires", also=hires.names())
    if request.init_image is None and request.width and request.height:
        width, height = hires.target_size(again, (request.width, request.height))
        if width * height > max_pixels:
            raise InvalidRequest(
                f"The second pass would have {width}×{height} pixels, and the limit is {max_pixels:,}. Ask for a "
                "smaller scale.",
                field="hires",
            )
