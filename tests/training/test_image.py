"""The whole recipe in small: random weights, three shapes for icons, 16 pixels."""

import hashlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from pydantic import ValidationError
from torch import Tensor
from training.config import ModelConfig, read
from training.export import export
from training.image import ImageTrainer, main
from training.model import train_tokenizer
from training.run import Stop, begin, train
from training.ship import DATA, LIMIT
from transformers import CLIPTokenizer

from tests.training import tiny
from training import checkpoint, model

CPU = Accelerator(cpu=True)
RECIPES = ("starter", "further", "full")


def trainer(folder: Path, steps: int = 4) -> ImageTrainer:
    return ImageTrainer(tiny.config(folder, steps), tiny.icons(), CPU)


def states_of(made: ImageTrainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in made.learner.state().tensors.items()}


def test_an_interrupted_run_ends_as_an_uninterrupted_one_to_the_bit(tmp_path: Path) -> None:
    whole = trainer(tmp_path)
    losses = list(train(whole, tmp_path / "whole", Stop()))
    assert len(losses) == 4

    halted = trainer(tmp_path)
    running = train(halted, tmp_path / "halted", Stop())
    before = list(islice(running, 2))
    checkpoint.save(tmp_path / "halted" / "checkpoints", halted.learner.state())
    running.close()
    resumed = trainer(tmp_path)
    begin(resumed, tmp_path / "halted")
    after = list(train(resumed, tmp_path / "halted", Stop()))

    assert before + after == losses
    expected, found = states_of(whole), states_of(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_two_processes_share_a_step_and_learn_what_one_does(tmp_path: Path) -> None:
    made = in_two_processes("tests.training.shared", str(tmp_path))
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "done").read_text() == "2"
    alone = trainer(tmp_path)
    before = learned(states_of(alone))
    list(train(alone, tmp_path / "alone", Stop()))
    shared = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert shared is not None
    assert shared.step == 4
    after = learned(states_of(alone))
    # Sums in another order; half of the samples alone would lead elsewhere by more than the whole way.
    assert (learned(shared.tensors) - after).norm() < 0.02 * (after - before).norm()


def in_two_processes(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    # accelerate's own launcher starts several on GPUs alone
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*launcher, module, *words], capture_output=True, text=True, timeout=300, env=environment)


def test_processes_that_would_begin_at_different_steps_say_so(tmp_path: Path) -> None:
    list(train(trainer(tmp_path / "config-1", steps=2), tmp_path / "1", Stop()))
    made = in_two_processes("tests.training.shared", str(tmp_path), "--apart")
    assert made.returncode != 0
    assert "different steps (0, 2): give them one --run folder" in made.stderr


def test_what_one_process_learns_in_minutes_is_not_done_twice(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "training.preview", "--run", str(tmp_path), "--cache", str(tmp_path / "none")]
    made = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "WORLD_SIZE": "2"})
    assert made.returncode != 0
    assert made.stderr.endswith("This takes one process: start it without accelerate launch or torchrun.\n")


def learned(tensors: Mapping[str, Tensor]) -> Tensor:
    """All weights in a row."""
    return torch.cat([tensors[name].flatten() for name in sorted(tensors) if name.startswith("weights.")])


def test_samples_composed_ahead_are_those_composed_at_once(tmp_path: Path) -> None:
    config = tiny.config(tmp_path)
    at_once, ahead = (
        ImageTrainer(config.model_copy(update={"workers": workers}), tiny.icons(), CPU) for workers in (0, 2)
    )
    for step in (0, 1, 2, 7, 8, 3):
        assert torch.equal(ahead._composed(step)[0], at_once._composed(step)[0])
        assert ahead._composed(step)[1] == at_once._composed(step)[1]


def test_a_batch_that_processes_cannot_share_equally_is_refused(tmp_path: Path) -> None:
    three = SimpleNamespace(num_processes=3, process_index=0, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="batch of 4 cannot be shared equally by 3 processes"):
        ImageTrainer(tiny.config(tmp_path), tiny.icons(), cast("Accelerator", three))


def test_a_run_asked_to_end_saves_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    made = trainer(tmp_path, steps=50)
    for _ in train(made, tmp_path / "run", stop):
        stop._ask(15, None)
    saved = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert saved is not None
    assert saved.step == made.learner.step == 1


def test_a_run_does_not_go_on_with_another_recipe_but_for_longer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    list(train(trainer(tmp_path), tmp_path / "run", Stop()))
    config = tiny.config(tmp_path)
    other = ImageTrainer(config.model_copy(update={"seed": 1, "min_snr": 5.0}), tiny.icons(), CPU)
    with pytest.raises(SystemExit, match=r"another recipe \(min_snr, seed\)"):
        begin(other, tmp_path / "run")
    longer = ImageTrainer(config.model_copy(update={"samples": 40}), tiny.icons(), CPU)
    begin(longer, tmp_path / "run")
    assert longer.learner.step == 4
    with caplog.at_level("INFO"):
        begin(trainer(tmp_path), tmp_path / "run")
    assert "nothing is left to learn" in caplog.text


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    first = train(trainer(tmp_path), tmp_path / "run", Stop())
    next(first)
    with pytest.raises(SystemExit, match="Another run is going on"):
        list(train(trainer(tmp_path), tmp_path / "run", Stop()))
    list(first)
    list(train(trainer(tmp_path), tmp_path / "run", Stop()))


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(tmp_path)
    usual = made.loss
    monkeypatch.setattr(made, "loss", lambda step: usual(step) * (float("nan") if step == 2 else 1))
    with pytest.raises(SystemExit, match="The loss of step 3 is nan"):
        list(train(made, tmp_path / "run", Stop(), checkpoint_minutes=0))
    saved = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert saved is not None
    assert saved.step == 2


def test_what_a_recipe_begins_with_is_looked_for_before_anything_is_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text('[model]\nstart = "nowhere"\n')
    with pytest.raises(SystemExit):
        main(["--config", str(tmp_path / "recipe.toml"), "--run", str(tmp_path / "run"), "--cache", str(tmp_path)])
    assert "names start = nowhere, which is not there" in capsys.readouterr().err


def test_the_loss_falls(tmp_path: Path) -> None:
    made = trainer(tmp_path, steps=40)
    with torch.no_grad():
        before = np.mean([made.loss(step).item() for step in range(1000, 1008)])
    for _ in train(made, tmp_path / "run", Stop()):
        pass
    with torch.no_grad():
        after = np.mean([made.loss(step).item() for step in range(1000, 1008)])
    assert after < 0.85 * before


def test_the_exported_model_draws_in_plain_diffusers_and_is_what_its_checksums_say(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    export(made.model, tmp_path / "model")
    assert next(made.model.unet.parameters()).dtype == torch.float32
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.float32)
    picture = pipeline("a red apple", num_inference_steps=2).images[0]
    assert picture.size == (16, 16)
    for line in (tmp_path / "model" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "model" / name).read_bytes()).hexdigest() == digest


def test_the_loop_conditions_the_unet_as_the_pipeline_does(tmp_path: Path) -> None:
    made = trainer(tmp_path).model
    made.trained.eval()
    prompts = ["two frogs on a red background", ""]
    context, _, pooled, _ = made.pipeline().encode_prompt(prompts, do_classifier_free_guidance=False)
    with torch.no_grad():
        ours = made.condition(made.tokens(prompts))
    assert torch.equal(ours[0], context)
    assert torch.equal(ours[1], pooled)


def test_both_forms_of_the_tokenizer_read_alike(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    export(made.model, tmp_path / "model")
    folder = tmp_path / "model" / "tokenizer"
    new = CLIPTokenizer.from_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    old = CLIPTokenizer.from_pretrained(folder)
    for text in ("A red APPLE on a blue background", "löwe 42 🦊", "x" * 200):
        assert old(text, truncation=True)["input_ids"] == new(text, truncation=True)["input_ids"]


def test_the_tokenizer_knows_the_words_it_was_trained_on_whole_and_no_word_is_unknown() -> None:
    tokenizer = train_tokenizer(["a purple dragon", "a purple apple"] * 20, 600, 32)
    begin, _, purple, _, end = tokenizer("a purple dragon")["input_ids"]
    assert (begin, end) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.decode([purple]).strip() == "purple"
    strange = tokenizer("ж")["input_ids"]
    assert tokenizer.unk_token_id not in strange[1:-1]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_and_its_model_is_of_at_most_40_mb_in_float16(name: str) -> None:
    config = read(Path("training") / f"{name}.toml")
    if config.model.start:  # which has the architecture of what is shipped
        weights = [file.stat().st_size for file in DATA.rglob("*.safetensors")]
        assert len(weights) > 5
        assert sum(weights) <= LIMIT
        return
    unet = model.unet_config(config.model, config.size // 4)
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in UNet2DConditionModel.from_config(unet).parameters())
    text = sum(
        config.model.vocabulary * width + config.model.text_layers * 12 * width**2 for width in config.model.text_widths
    )
    assert 2 * (parameters + text) < 31e6  # which leaves 9 MB to the autoencoder, two LoRAs and the captioner


def test_a_misspelt_entry_of_a_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("batch_size = 3")
    with pytest.raises(ValidationError, match="batch_size"):
        read(tmp_path / "wrong.toml")
    (tmp_path / "broken.toml").write_text("size = = 3")
    with pytest.raises(tomllib.TOMLDecodeError):
        read(tmp_path / "broken.toml")


def test_without_an_autoencoder_the_message_says_how_to_make_one() -> None:
    with pytest.raises(ValueError, match=r"training\.autoencoder"):
        model.build(ModelConfig(), 16, ["a cat"], seed=0)
