"""What it takes to know thousands of model files: ``python benchmarks/catalog.py [--loras 5000]``.

LoRAs as kohya's trainer writes them for SDXL: 986 layers of three tensors each, and its settings; of the tensors
themselves there are only the places. They are listed as `GET /models` does: the first time ever, once more, after one
was added, and after a restart. Beside it what reading the headers takes by itself, with json alone. Times are those of
the processor, which other work on the machine disturbs least; the files lie in the disk cache.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from illustrious.catalog.cards import adapters
from illustrious.catalog.hashes import Hashes
from illustrious.catalog.identities import Identities
from illustrious.catalog.library import Library

LAYERS = {"lora_unet_down_blocks_1_attentions_0_transformer_blocks": 722, "lora_te1_text_model_encoder_layers": 264}
"""What kohya's names begin with, and how many layers it trains in the UNet and in both text encoders."""


def header() -> bytes:
    tensors: dict[str, object] = {
        "__metadata__": {
            "ss_base_model_version": "sdxl_base_v1-0",
            "ss_sd_model_name": "Illustrious-XL-v0.1.safetensors",
            "ss_tag_frequency": json.dumps({f"tag number {number}": number for number in range(500)}),
        }
    }
    for beginning, count in LAYERS.items():
        for number in range(count):
            for role, shape in (("alpha", []), ("lora_down.weight", [16, 2048]), ("lora_up.weight", [640, 16])):
                name = f"{beginning}_{number}_attn2_to_k.{role}"
                tensors[name] = {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]}
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


def listed(library: Library, hashes: Hashes) -> int:
    count = len(adapters("lora", library, hashes))
    library.identities.keep()
    return count


def timed(what: str, work: Callable[[], object]) -> None:
    begin = time.process_time()
    work()
    print(f"{what:<34} {time.process_time() - begin:8.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loras", type=int, default=5000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        loras = folder / "loras"
        loras.mkdir()
        first = loras / "00000.safetensors"
        first.write_bytes(header())
        files = [
            first,
            *(Path(shutil.copy(first, loras / f"{number:05}.safetensors")) for number in range(1, given.loras)),
        ]
        print(f"{len(files)} LoRAs, each with a header of {first.stat().st_size / 1000:.0f} kB")

        def parse() -> None:
            for file in files:
                json.loads(file.read_bytes()[8:])

        def opened() -> tuple[Library, Hashes]:
            return Library([folder], identities=Identities(folder / "identities.json")), Hashes(folder / "hashes.json")

        timed("headers, with json alone", parse)
        library, hashes = opened()
        timed("listed the first time", lambda: listed(library, hashes))
        timed("once more", lambda: listed(library, hashes))
        shutil.copy(first, loras / "new.safetensors")
        timed("after one was added", lambda: listed(library, hashes))
        timed("after a restart", lambda: listed(*opened()))
        print(f"remembered in {(folder / 'identities.json').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
