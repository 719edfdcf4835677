"""How each family of checkpoints is best drawn with, as its makers say, else as its users found.

==================  ===================================================================================================
sdxl                the usual nine of the buckets in SDXL's paper (arXiv 2307.01952, appendix I); the rest as is common
pony                model card of Pony Diffusion V6 XL: clip skip 2, ``score_…`` words, Euler a, 25 steps
animagine           model card of Animagine XL 4.0 (which wants its words behind the prompt)
illustrious         model card of Illustrious-XL v0.1: Euler a, 20 to 28 steps, guidance 5 to 7.5
illustrious-2       users of v1.0 to v2.0, as their cards say little; up to 1536×1536
illustrious-3       makers' notes on v3.0 and v3.5; up to 2048×2048
noobai              model cards of NoobAI-XL 1.0 and NoobAI-XL V-Pred 1.0, without the words against animals
starter             as it was trained
==================  ===================================================================================================

Chosen here, and measured nowhere: one value where a source gives a range; ``pixels``, beyond what sources say of
Illustrious; Illustrious' buckets over 1024×1024 other than the square; NoobAI's values for v-prediction in other
families, too.
"""

from illustrious.catalog.families import Family
from illustrious.catalog.identity import Identity
from illustrious.types import Noun

Size = tuple[int, int]

SQUARE: Size = (1024, 1024)


def _both_ways(*upright: Size) -> tuple[Size, ...]:
    return (SQUARE, *upright, *((height, width) for width, height in upright))


BUCKETS = _both_ways((896, 1152), (832, 1216), (768, 1344), (640, 1536))
NOOBAI_BUCKETS = _both_ways((896, 1152), (832, 1216), (768, 1344))
ILLUSTRIOUS_2_BUCKETS = (*BUCKETS, (1536, 1536), (1248, 1824), (1824, 1248))


class Profile(Noun):
    """What to draw with where nobody says otherwise; ``None`` where the studio's own defaults will do.

    ``buckets`` are the sizes it was trained on, width and height in pixels, the usual one first; from ``pixels[0]`` to
    ``pixels[1]`` pictures come out whole. Fields that ``ImageRequest`` has, too, mean what they mean there.
    """

    buckets: tuple[Size, ...] = ()
    pixels: tuple[int, int] | None = None
    sampler: str | None = None
    schedule: str | None = None
    steps: int | None = None
    guidance: float | None = None
    guidance_rescale: float | None = None
    clip_skip: int | None = None
    prompt_prefix: str | None = None
    negative_prompt: str | None = None


SDXL = Profile(buckets=BUCKETS, pixels=(768 * 768, 1280 * 1280), steps=30, guidance=7.0)

NOOBAI = Profile(
    buckets=NOOBAI_BUCKETS,
    pixels=SDXL.pixels,
    sampler="Euler a",
    steps=28,
    guidance=5.5,
    prompt_prefix="masterpiece, best quality, newest, absurdres, highres, safe",
    negative_prompt="nsfw, worst quality, old, early, low quality, lowres, signature, username, logo, bad hands, "
    "mutated hands",
)

PROFILES: dict[Family, Profile] = {
    "sdxl": SDXL,
    "starter": Profile(steps=25, guidance=5.0),
    "pony": Profile(
        buckets=BUCKETS,
        pixels=SDXL.pixels,
        sampler="Euler a",
        steps=25,
        guidance=7.0,
        clip_skip=2,
        prompt_prefix="score_9, score_8_up, score_7_up",
    ),
    "animagine": Profile(
        buckets=BUCKETS,
        pixels=SDXL.pixels,
        sampler="Euler a",
        steps=28,
        guidance=5.0,
        prompt_prefix="masterpiece, high score, great score, absurdres",
        negative_prompt="lowres, bad anatomy, bad hands, worst quality, low quality, low score, bad score",
    ),
    "illustrious": Profile(
        buckets=BUCKETS,
        pixels=(768 * 768, 1024 * 1536),
        sampler="Euler a",
        steps=28,
        guidance=6.0,
        clip_skip=2,
        prompt_prefix="masterpiece, best quality",
        negative_prompt="worst quality, bad quality",
    ),
    "illustrious-2": Profile(
        buckets=ILLUSTRIOUS_2_BUCKETS,
        pixels=(512 * 512, 1536 * 1536),
        sampler="Euler a",
        steps=28,
        guidance=5.0,
        clip_skip=2,
        prompt_prefix="masterpiece, best quality, amazing quality, very aesthetic, newest",
        negative_prompt="lowres, bad quality, worst quality, bad anatomy, sketch, jpeg artifacts",
    ),
    "illustrious-3": Profile(
        buckets=ILLUSTRIOUS_2_BUCKETS,
        pixels=(256 * 256, 2048 * 2048),
        sampler="Euler",
        schedule="Normal",
        steps=28,
        guidance=7.5,
    ),
    "noobai": NOOBAI,
}

V_PREDICTION = {"sampler": "Euler", "schedule": None, "steps": 30, "guidance": 4.5, "guidance_rescale": 0.2}
"""NoobAI-XL V-Pred's card: Euler, 28 to 35 steps, guidance 4 to 5, some rescale. Models made from it are alike."""

ILLUSTRIOUS_3_V = {"sampler": "Euler a", "schedule": "SGM Uniform", "guidance": 1.5}


def profile(identity: Identity) -> Profile:
    """That of a checkpoint. One that nothing is known of has an empty profile."""
    if identity.family is None:
        return Profile()
    found = PROFILES[identity.family]
    if identity.width and identity.height:
        native = identity.width, identity.height
        if native not in found.buckets:
            found = found.model_copy(update={"buckets": (native,), "pixels": None})
        else:
            found = found.model_copy(update={"buckets": tuple(dict.fromkeys((native, *found.buckets)))})
    if identity.family == "starter" or identity.prediction is None or identity.prediction.type != "v_prediction":
        return found
    return found.model_copy(update=ILLUSTRIOUS_3_V if identity.family == "illustrious-3" else V_PREDICTION)
