"""The SDXL engine, built on diffusers' models and schedulers; the denoising loop is ours.

Importing this package loads no torch: everything heavy is imported when the engine runs.

``engine``        commands in, events out, one picture at a time
``draw``          a request → steps → a picture
``conditioning``  prompt → embeddings                ``denoise``     the loop
``samplers``      names → which scheduler, and how   ``decode``      latents → PNG
``schedules``     how noise levels are spaced        ``schedulers``  diffusers', and what it lacks
``model``         the parts in memory                ``placement``   device and dtype
``checkpoint``    a file or folder → its parts, by ``single_file`` (LDM keys) or ``folder`` (diffusers)
``parts``         what a checkpoint holds              ``weights``     safetensors, and models built around them
``tokenizer``     CLIP's vocabulary
``lora``          LoRA files, their keys (``lora_keys``) and what they change (``deltas``); ``adapters`` lets them act
``embeddings``    textual inversion                    ``controlnet``  guidance by pictures
"""

from illustrious.images.diffusion.engine import SDXLEngine

__all__ = ["SDXLEngine"]
