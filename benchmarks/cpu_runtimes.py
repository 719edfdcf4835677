"""What other runtimes make of a UNet on a CPU, against eager PyTorch in the same process.

    python -W ignore benchmarks/cpu_runtimes.py [--full] [--rounds 15] [--threads 1] [--only eager,inductor,…]

One step of both halves of the starter's, in float32 and, where the processor multiplies it by itself, in bfloat16; with
``--full`` that of SDXL with random weights, for a picture of 256×256, in bfloat16 alone. All take turns, so that a busy
machine is busy for all; times are the processor's own. Printed are medians of ratios to the first, which is eager, with
the interval that holds the middle half of the rounds, the seconds until a runtime could begin, and the distance of
its answer from the first's: the largest difference over the largest value. Random weights enlarge rounding so much that
with ``--full`` it says nothing.

Inductor needs a C++ compiler. ONNX Runtime and OpenVINO are no part of the studio; what is not there is left out, with
a line that says so. To try them, put them into a folder of their own:

    python -m pip install --no-deps --target FOLDER onnx onnxscript onnx-ir ml-dtypes protobuf flatbuffers onnxruntime
    python -m pip install --no-deps --target FOLDER openvino
    PYTHONPATH=FOLDER:src python -W ignore benchmarks/cpu_runtimes.py

Not ``openvino-telemetry``, which OpenVINO names as needed: its converter reports through it, and does without.
"""

import sys

if not __package__:
    sys.path[0] = sys.path[0].removesuffix("/benchmarks")  # as a file: the folder beside it is a package

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from benchmarks.engine import shown, starter
from benchmarks.flops import TOKENS
from benchmarks.full_size import SDXL, filled
from benchmarks.report import FAILURES
from torch import Tensor, nn

from illustrious.images.diffusion.parts import TIME_IDS
from illustrious.images.diffusion.placement import Placement, place

Given = tuple[Tensor, ...]
Work = Callable[[], Tensor]


class Step(nn.Module):
    """A UNet of any dtype that takes and gives float32, with all it is told side by side, as exporters want it."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet.eval()

    def forward(self, sample: Tensor, timestep: Tensor, embeddings: Tensor, pooled: Tensor, sizes: Tensor) -> Tensor:
        dtype = self.unet.conv_in.weight.dtype
        answer: Tensor = self.unet(
            sample.to(dtype),
            timestep,  # bfloat16 cannot tell 999 from 1000
            encoder_hidden_states=embeddings.to(dtype),
            added_cond_kwargs={"text_embeds": pooled.to(dtype), "time_ids": sizes.to(dtype)},
            return_dict=False,
        )[0]
        return answer.float()


def told(config: Any, latents: int) -> Given:
    """Both halves of a square picture of so many latents along an edge."""
    random = torch.Generator().manual_seed(0)
    pooled = config.projection_class_embeddings_input_dim - TIME_IDS * config.addition_time_embed_dim
    edge = 8.0 * latents
    return (
        torch.randn(1, config.in_channels, latents, latents, generator=random).repeat(2, 1, 1, 1),
        torch.full((2,), 500.0),
        torch.randn(2, TOKENS, config.cross_attention_dim, generator=random),
        torch.randn(2, pooled, generator=random),
        torch.tensor([[edge, edge, 0.0, 0.0, edge, edge]]).repeat(2, 1),
    )


def full_size() -> Any:
    unet, *_ = SDXL.parts
    filled(unet, Placement(torch.device("cpu"), "cpu", torch.bfloat16))
    return unet


def timed(work: Work) -> float:
    """Seconds of this process, whatever others on the machine do."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


# --- the runtimes --------------------------------------------------------------------------------------------------


def eager(step: Step, given: Given) -> Work:
    return lambda: step(*given)


def inductor(step: Step, given: Given) -> Work:
    # Isolated, or one graph of these modules would answer for another.
    compiled: Step = torch.compile(step, dynamic=False, fullgraph=True, isolate_recompiles=True)
    return lambda: compiled(*given)


def frozen(step: Step, given: Given) -> Work:
    """With weights as constants of the graph, laid out as its kernels like them: no other weights, no LoRAs."""
    with torch._inductor.config.patch(freezing=True):  # as an option of ``compile`` it comes too late for the weights
        work = inductor(step, given)
        work()
    return work


def onnxruntime(step: Step, given: Given) -> Work:
    import onnxruntime as runtime

    if step.unet.dtype != torch.float32:
        raise TypeError("it has no convolutions in bfloat16 for CPUs")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "unet.onnx"
        torch.onnx.export(step, given, path, dynamo=True, verbose=False)
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    named = {put.name: tensor.numpy() for put, tensor in zip(session.get_inputs(), given, strict=True)}
    return lambda: torch.from_numpy(session.run(None, named)[0])


def openvino(step: Step, given: Given) -> Work:
    import openvino as runtime

    converted = runtime.convert_model(step, example_input=given, input=[tuple(tensor.shape) for tensor in given])
    config = {
        "INFERENCE_PRECISION_HINT": "bf16" if step.unet.dtype == torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = runtime.Core().compile_model(converted, "CPU", config).create_infer_request()
    arrays = [tensor.numpy() for tensor in given]
    return lambda: torch.from_numpy(request.infer(arrays, share_inputs=True)[0])


RUNTIMES = {
    "eager": eager,
    "inductor": inductor,
    "inductor, frozen": frozen,
    "ONNX Runtime": onnxruntime,
    "OpenVINO": openvino,
}


def made_ready(step: Step, given: Given, name: str, ready: Callable[[Step, Given], Work]) -> tuple[Work, Tensor] | None:
    """The work and its first answer; ``None``, and a line that says so, where it cannot be had."""
    begin = time.perf_counter()
    try:
        work = ready(step, given)
        answer = work().clone()
    except ImportError as error:
        print(f"{name:24} left out, it is not installed: {error}", flush=True)
    except FAILURES as error:
        first = str(error).strip().split("\n")[0][:160]
        print(f"{name:24} left out: {type(error).__name__}: {first}", flush=True)
    else:
        print(f"{name:24} ready after {time.perf_counter() - begin:5.1f} s", flush=True)
        return work, answer
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="runtimes whose names have one of these words, with commas between")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    unet = full_size() if asked.full else starter().unet
    given = told(unet.config, 32 if asked.full else unet.config.sample_size)
    steps = {", bf16" if asked.full else "": Step(unet)}
    if not asked.full and place("cpu").rounds:
        steps[", bf16"] = Step(deepcopy(unet).to(torch.bfloat16))
    print(f"{tuple(given[0].shape)} latents, {asked.threads} threads, torch {torch.__version__}")
    works: dict[str, Work] = {}
    answers: dict[str, Tensor] = {}
    taken: dict[str, list[float]] = defaultdict(list)
    with torch.no_grad():
        for kind, step in steps.items():
            for name, ready in RUNTIMES.items():
                if name == "eager" or any(word in name for word in asked.only.split(",")):
                    made = made_ready(step, given, name + kind, ready)
                    if made is not None:
                        works[name + kind], answers[name + kind] = made
        for turn in range(asked.rounds + 1):
            for name, work in works.items():
                seconds = timed(work)
                if turn:  # the first warms up
                    taken[name].append(seconds)
    first = next(iter(works))
    for name, seconds in taken.items():
        ratios = [base / own for base, own in zip(taken[first], seconds, strict=True)]
        distance = float((answers[name] - answers[first]).abs().max() / answers[first].abs().max())
        print(f"{name:24} {shown(ratios)} as fast, {shown([1000 * own for own in seconds], 'ms')}, {distance:.1e} away")


if __name__ == "__main__":
    main()
