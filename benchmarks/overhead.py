"""What the studio adds to the bare model.

    python benchmarks/overhead.py [--model FOLDER] [--size 128] [--steps 25] [--pairs 30] [--starts 5]

Draws the same pictures by ``POST /generate-image`` and by diffusers' own pipeline with the same weights, size and
steps, in turns within one run, so that a busy machine is busy for both. Prints medians, each with the interval that
holds the true one 95 times of 100 (by order statistics, whatever the distribution), and the fastest of each, which a
busy machine disturbs least. PNG and base64 are timed apart: a caller of the bare pipeline has neither. Starts are
those of ``python -m illustrious`` in a new data folder, the first of them, which reads from the disk, left out.
"""

import argparse
import base64
import io
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two processes take turns: neither may spin while it waits

import httpx
import torch
from diffusers import StableDiffusionXLPipeline

STARTER = Path(__file__).parents[1] / "src" / "illustrious" / "data" / "starter"
PROMPT, NEGATIVE, GUIDANCE = "a red apple on a blue background", "blurry", 5.0


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def shown(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    below = max(0, math.floor(len(ordered) / 2 - 0.98 * math.sqrt(len(ordered))))
    low, high = ordered[below], ordered[len(ordered) - 1 - below]
    return f"{statistics.median(ordered) * 1000:8.1f} ms   [{low * 1000:.1f} … {high * 1000:.1f}]"


@dataclass
class Start:
    """Seconds from the command to each of these."""

    status: float
    picture: float


@contextmanager
def server(folder: Path, model: str | None, threads: int) -> Iterator[tuple[httpx.Client, Start]]:
    """A studio of its own, and how long its start took."""
    log = (folder / "log.txt").open("wb")
    port = 18000 + os.getpid() % 2000
    command = [sys.executable, "-m", "illustrious", "serve", "--port", str(port), "--data-dir", str(folder)]
    environment = {**os.environ, "ILLUSTRIOUS_THREADS": str(threads)}
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*command, *(["--model", model] if model else [])], stdout=log, stderr=subprocess.STDOUT, env=environment
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=3600, trust_env=False) as client:
            while True:
                try:
                    client.get("/status").raise_for_status()
                    break
                except httpx.TransportError:
                    if process.poll() is not None:
                        raise SystemExit((folder / "log.txt").read_text()) from None
                    time.sleep(0.01)
            status = time.perf_counter() - begin
            ask(client, 128, 10, 1)
            yield client, Start(status, time.perf_counter() - begin)
    finally:
        process.terminate()
        process.wait()
        log.close()


def ask(client: httpx.Client, size: int, steps: int, seed: int) -> bytes:
    body = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "steps": steps,
        "guidance": GUIDANCE,
        "seed": seed,
        "width": size,
        "height": size,
    }
    answer = client.post("/generate-image", json=body)
    answer.raise_for_status()
    return base64.b64decode(answer.json()["image_base64"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a diffusers folder; the starter model if left out")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    pipeline = StableDiffusionXLPipeline.from_pretrained(
        options.model or STARTER, dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)

    def bare(seed: int) -> object:
        return pipeline(
            PROMPT,
            negative_prompt=NEGATIVE,
            num_inference_steps=options.steps,
            guidance_scale=GUIDANCE,
            width=options.size,
            height=options.size,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]

    starts: list[Start] = []
    for _ in range(max(1, options.starts)):
        with (
            tempfile.TemporaryDirectory() as folder,
            server(Path(folder), options.model, options.threads) as (_, start),
        ):
            starts.append(start)

    with tempfile.TemporaryDirectory() as folder, server(Path(folder), options.model, options.threads) as (client, _):
        picture = bare(0)
        ask(client, options.size, options.steps, 0)
        ours: list[float] = []
        theirs: list[float] = []
        for seed in range(options.pairs):
            pair = [
                (ours, lambda seed=seed: ask(client, options.size, options.steps, seed)),
                (theirs, lambda seed=seed: bare(seed)),
            ]
            for times_of, work in pair if seed % 2 else reversed(pair):
                times_of.append(timed(work))
        buffer = io.BytesIO()
        png = [timed(lambda: picture.save(io.BytesIO(), "PNG")) for _ in range(20)]  # type: ignore[attr-defined]
        picture.save(buffer, "PNG")  # type: ignore[attr-defined]
        base = [timed(lambda: base64.b64decode(base64.b64encode(buffer.getvalue()))) for _ in range(20)]
        idle = [timed(lambda: client.get("/status")) for _ in range(200)]
        busy: list[float] = []
        drawing = threading.Thread(target=ask, args=(client, options.size, min(100, options.steps * 4), 1))
        drawing.start()
        with httpx.Client(base_url=client.base_url, trust_env=False) as other:
            while drawing.is_alive():
                busy.append(timed(lambda: other.get("/status")))
                time.sleep(0.005)

    differences = [mine - bare for mine, bare in zip(ours, theirs, strict=True)]
    added = statistics.median(differences)
    encoding = statistics.median(png) + statistics.median(base)
    print(f"{options.size}×{options.size}, {options.steps} steps, {options.pairs} pairs, {options.threads} threads")
    print(f"  POST /generate-image     {shown(ours)}")
    print(f"  bare diffusers pipeline  {shown(theirs)}")
    print(f"  added, pair by pair      {shown(differences)}   {added / statistics.median(theirs):+.1%}")
    print(f"  of which PNG             {shown(png)}")
    print(f"  of which base64          {shown(base)}")
    print(f"  added beside encoding    {(added - encoding) * 1000:8.1f} ms")
    fastest = min(ours) - min(theirs)
    print(f"  fastest, ours            {min(ours) * 1000:8.1f} ms")
    print(f"  fastest, theirs          {min(theirs) * 1000:8.1f} ms   {fastest / min(theirs):+.1%}")
    for name, samples in (("idle", idle), ("while drawing", busy)):
        cuts = statistics.quantiles(samples, n=100)
        print(f"/status, {name}: p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms ({len(samples)} calls)")
    print(f"start to first /status     {shown([start.status for start in starts[1:] or starts])}")
    print(f"start to first picture     {shown([start.picture for start in starts[1:] or starts])}   (10 steps)")


if __name__ == "__main__":
    main()
