"""The tiny recipe to its end, by as many processes as this is started in.

torchrun --nproc_per_node=2 -m tests.training.shared FOLDER [--apart]

``--apart``: each in a run folder of its own, ``FOLDER/0`` and so on.
"""

import sys
from pathlib import Path

from training.image import ImageTrainer
from training.run import Stop, accelerator, begin, complete

from tests.training import tiny

folder, process = Path(sys.argv[1]), accelerator()
run = folder / (str(process.process_index) if "--apart" in sys.argv else "run")
trainer = ImageTrainer(tiny.config(folder / f"config-{process.process_index}"), tiny.icons(), process)
begin(trainer, run)
if complete(trainer, run, Stop(), checkpoint_minutes=5, sheet_every=1000):
    (folder / "done").write_text(str(process.num_processes))
