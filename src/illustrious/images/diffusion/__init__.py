"""The SDXL engine, built on diffusers' models and schedulers; the denoising loop is ours.

Importing this package loads no torch: everything heavy is imported when the engine runs.

``engine``       commands in, events out           ``loop``          the running batch
``draw``         one picture, request → file       ``denoise``       its steps; calls of the UNet
``exact``        shared calls that change no bit   ``placement``     device, dtype, memory
``shortcuts``    what fast pictures leave out      ``compiled``      a UNet compiled beside the eager one
``rounded``      a UNet in bfloat16 beside it
``samplers``     names → which scheduler, and how  ``schedulers``    diffusers', and what it lacks
``schedules``    how noise levels are spaced
``prompt``       the grammar; ``expand`` with ``wildcards``, ``chunks``, ``conditioner``: what the UNet is told
``canvas``       what is drawn on, in pixels       ``edit``          the same in latents
``encode``       pixels → latents                  ``decode``        latents → pixels
``hires``        the second pass                   ``upscale``       upscaler models
``outfit``       what is worn: ``adapters`` (LoRAs: ``lora``, ``lora_keys``, ``deltas``), ``controlnet``, ``tiling``
``embeddings``   textual inversion                 ``autoencoders``  VAE files
``preview``      what it looks like so far
``stock``        names in requests → memory        ``shelf``         which models are kept warm
``check``        what can be told of a request before it waits
``model``        the parts in memory               ``recent``        what took long to load, while there is room
``checkpoint``   a file or folder → its ``parts``, by ``single_file`` (LDM keys) or ``folder`` (diffusers)
``returned``     a generator taken to its end
``weights``      safetensors → models              ``tokenizer``     CLIP's vocabulary
"""

from illustrious.images.diffusion.engine import SDXLEngine

__all__ = ["SDXLEngine"]
