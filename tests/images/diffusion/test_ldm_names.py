"""Every layer of a UNet has the LDM name that a walk through Stability AI's own modules gives it."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from illustrious.images.diffusion.ldm_names import ldm_names
from illustrious.images.diffusion.single_file import Tensors, unet_config_of
from tests import tiny
from tests.images.diffusion import sgm

SDXL = sgm.UNet()
SSD = sgm.UNet(depth_in=(0, 0, 2, 2, 4, 4), depth_middle=-1, depth_out=(4, 4, 10, 2, 1, 1, 0, 0, 0))
"""In the manner of distilled models: depths of their own, and a middle without attention."""


@pytest.mark.parametrize("structure", [SDXL, SSD, tiny.STRUCTURE.unet], ids=["SDXL", "distilled", "tiny"])
def test_every_layer_has_its_ldm_name(structure: sgm.UNet) -> None:
    walk = list(sgm.unet(structure))
    shapes = {ldm: torch.empty(shape, device="meta") for ldm, _, shape in walk}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**unet_config_of(Tensors("UNet", "", shapes), pooled_width=1280))
    expected = {name.removesuffix(".weight"): ldm.removesuffix(".weight") for ldm, name, _ in walk if "weight" in name}
    assert ldm_names(unet) == expected
