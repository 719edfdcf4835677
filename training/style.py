"""Train a LoRA that draws in another icon set's style: ``python -m training.style [--detach]``.

The finished image model learns from the same compositions as before, made of the icons of that style.
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path

from training import lora, run
from training.concepts import STARTER
from training.config import ImageConfig, read
from training.icons import STYLES, load_icons

log = logging.getLogger("training")


def styled(config: ImageConfig, base: Path) -> ImageConfig:
    """The recipe without what has no style of icons: scenes and dyed hair. No caption names the style: the LoRA is what
    asks for it."""
    scenes = dict.fromkeys(("landscape", "sunset", "city", "hair"), 0.0)
    mixture = replace(config.mixture, **scenes, style_words=0.0, other_styles=0.0, added=1.0)
    return lora.on_finished(config, base, config.style).model_copy(update={"mixture": mixture})


def main(words: list[str]) -> int:
    parser = run.arguments("Train a style LoRA on the image model.", Path("training/runs/style"))
    parser.add_argument("--base", type=Path, default=Path("training/runs/image/model"), help="the finished model")
    options = parser.parse_args(words)
    if not run.prepare(options, "training.style", words):
        return 0
    config = read(options.config)
    if options.samples:
        config = config.model_copy(update={"style": config.style.model_copy(update={"samples": options.samples})})
    config = styled(config, options.base)
    labels = STARTER if config.vocabulary == "starter" else None
    name = config.style.name
    icons = load_icons([name], config.size, options.cache, labels)
    trainer = lora.LoraTrainer(config, config.style, icons, run.best_device())
    run.begin(trainer, options.run)
    stop = run.Stop().listen()
    if not run.complete(trainer, options.run, stop, config.checkpoint_minutes, config.sheet_every):
        return 0
    with trainer.learner.averaged():
        file = options.run / f"starter-{name}.safetensors"
        digest = lora.write(
            trainer.model.unet,
            file,
            {
                "modelspec.title": f"Starter, {name} style",
                "modelspec.description": f"Draws in the style of {name} icons, at weights from 0.5 to 1.",
                "modelspec.author": STYLES[name].name,
                "modelspec.license": STYLES[name].licence,
            },
        )
        trainer.show(options.run / "sheets" / "final.png")
    log.info("the LoRA is %s (SHA-256 %s)", file, digest)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
