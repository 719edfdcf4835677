"""A runtime that is not here is a line that says so; and what all of them are given is the UNet."""

import pytest
import torch
from benchmarks.cpu_runtimes import Given, Step, Work, eager, made_ready, told

from tests import tiny
from tests.images.diffusion.drawing import loaded


def missing(step: Step, given: Given) -> Work:
    raise ModuleNotFoundError("No module named 'openvino'")


def broken(step: Step, given: Given) -> Work:
    raise RuntimeError("no kernel\nfor this processor")


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Step:
    return Step(loaded(tiny.write_folder(tmp_path_factory.mktemp("tiny") / "tiny")).unet)


@torch.no_grad()
def test_what_is_not_here_is_left_out_and_said(step: Step, capsys: pytest.CaptureFixture[str]) -> None:
    given = told(step.unet.config, 8)
    assert made_ready(step, given, "OpenVINO", missing) is None
    assert made_ready(step, given, "another", broken) is None
    assert made_ready(step, given, "eager", eager) is not None
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.endswith("left out, it is not installed: No module named 'openvino'")
    assert second.endswith("left out: RuntimeError: no kernel")
    assert "ready after" in third


@torch.no_grad()
def test_a_step_is_a_call_of_the_unet(step: Step) -> None:
    sample, timestep, embeddings, pooled, sizes = given = told(step.unet.config, 8)
    added = {"text_embeds": pooled, "time_ids": sizes}
    answer = step.unet(sample, timestep, encoder_hidden_states=embeddings, added_cond_kwargs=added).sample
    assert torch.equal(step(*given), answer)
    assert sample.shape[0] == 2
