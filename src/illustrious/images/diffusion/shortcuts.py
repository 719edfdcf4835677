"""Drawing with less than the whole work: the UNet in two parts, of which ``fast`` pictures leave one out at most turns.

From one turn to the next the blocks below full resolution answer nearly the same. So they are asked at every third
turn, and at the others their last answer is repeated (DeepCache, arXiv 2312.00858); ControlNets, which act mostly
there, are asked at the same turns. One of them is the last, whose answer no other turn mends. A turn is one call of the
UNet; samplers of second order take two a step. ``benchmarks/speed.py`` measures what that does to a picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from illustrious.images.diffusion.conditioner import Half
from illustrious.images.diffusion.controlnet import Residuals
from illustrious.images.diffusion.samplers import Sampler

EVERY = 3
"""Of so many turns one asks the deep blocks."""

FEWEST_STEPS = 12
"""With fewer, neighbouring turns are too different for one to repeat what another said."""


def deep_every(unet: Any, sampler: Sampler, steps: int) -> tuple[int, list[str]]:
    """Of how many turns one asks the deep blocks in a ``fast`` pass of so many steps; and why every one of them does,
    where that is so."""
    if not has_parts(unet):
        return 1, ["This model's UNet is built in another way than SDXL's: fast leaves no work out."]
    if sampler.method.over == "distilled" or steps < FEWEST_STEPS:
        what = f"{steps} steps" if steps < FEWEST_STEPS else f"{sampler.name}"
        return 1, [f"With {what} fast leaves no work out: neighbouring steps are too different."]
    return EVERY, []


@dataclass(frozen=True)
class Deep:
    """What the deep blocks answered for one half (1 × channels × height × width), and what guides added to it."""

    half: Half
    answer: Tensor
    residuals: Residuals | None


def has_parts(unet: Any) -> bool:
    """``forward`` is this UNet's: it has blocks below full resolution, and nothing that SDXL's has not."""
    others = (unet.class_embedding, unet.time_embed_act, unet.encoder_hid_proj, unet.config.center_input_sample or None)
    is_plain = unet.config.addition_embed_type == "text_time" and all(other is None for other in others)
    return is_plain and len(unet.up_blocks) > 1


Parts = Callable[..., tuple[Tensor, Tensor]]
"""``forward`` of one UNet."""


def forward(
    unet: Any,
    sample: Tensor,
    timestep: Tensor,
    embeddings: Tensor,
    added: dict[str, Tensor],
    timestep_cond: Tensor | None = None,
    residuals: Residuals | None = None,
    deep: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What ``unet(…)`` of the same arguments answers, and the answer of its deep blocks; with ``deep`` these are not
    computed, and that is taken for theirs.

    As in diffusers' ``UNet2DConditionModel.forward``, for what SDXL has of it.
    """
    time = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timestep), timestep_cond)
    time = time + unet.get_aug_embed(emb=time, encoder_hidden_states=embeddings, added_cond_kwargs=added)

    def through(block: Any, hidden: Tensor, **further: Any) -> Any:
        if getattr(block, "has_cross_attention", False):
            further["encoder_hidden_states"] = embeddings
        return block(hidden, temb=time, **further)

    hidden = unet.conv_in(sample)
    skips = [hidden]
    outermost, *others = unet.down_blocks
    hidden, passed = through(outermost, hidden)
    skips += passed
    last = unet.up_blocks[-1]
    if deep is None:
        for block in others:
            hidden, passed = through(block, hidden)
            skips += passed
    if residuals is not None:
        skips = [skip + more for skip, more in zip(skips, residuals.down[: len(skips)], strict=True)]
    if deep is None:
        if unet.mid_block is not None:
            hidden = through(unet.mid_block, hidden)
        if residuals is not None:
            hidden = hidden + residuals.middle
        for block in unet.up_blocks[:-1]:
            own = len(skips) - len(block.resnets)
            # Where an edge is odd, halving and doubling it does not lead back: the next skip says how large to become.
            hidden = through(
                block, hidden, res_hidden_states_tuple=tuple(skips[own:]), upsample_size=skips[own - 1].shape[2:]
            )
            del skips[own:]
        deep = hidden
    hidden = through(last, deep, res_hidden_states_tuple=tuple(skips[: len(last.resnets)]))
    answer: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
    return answer, deep


def changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """One of ``forward``'s arguments, with its tensors changed."""
    match value:
        case Tensor():
            return change(value)
        case dict():
            return {name: change(tensor) for name, tensor in value.items()}
        case Residuals(down=down, middle=middle):
            return Residuals(tuple(map(change, down)), change(middle))
        case _:
            return value
