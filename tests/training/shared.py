"""The tiny recipe to its end, by as many processes as this is started in.

torchrun --nproc_per_node=2 -m tests.training.shared FOLDER
"""

import sys
from pathlib import Path

from training.image import ImageTrainer
from training.run import Stop, accelerator, begin, complete

from tests.training import tiny

folder, process = Path(sys.argv[1]), accelerator()
trainer = ImageTrainer(tiny.config(folder / str(process.process_index)), tiny.icons(), process)
begin(trainer, folder / "run")
if complete(trainer, folder / "run", Stop(), checkpoint_minutes=5, sheet_every=1000):
    (folder / "done").write_text(str(process.num_processes))
