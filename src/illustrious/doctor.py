"""Look at everything the studio needs, and say what is wrong with each and what to do."""

import asyncio
import json
import platform
import shutil
import sys
from contextlib import closing
from typing import Literal

from illustrious import system
from illustrious.app import build_chat, build_library
from illustrious.catalog.kinds import KINDS
from illustrious.catalog.library import STARTER
from illustrious.errors import CannotStart
from illustrious.settings import Settings
from illustrious.types import Noun

LOW_SPACE = 2_000_000_000
"""Bytes of free disk space below which pictures may soon not be saved."""

MOST_FILES = 8
"""How many files one run complains of by name."""

LOOK_AT_TORCH = """
import json, torch
mps = getattr(torch.backends, "mps", None)
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.cuda.is_available(),
    "hip": torch.version.hip,
    "mps": bool(mps and mps.is_available()),
    "name": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
}))
"""


class Finding(Noun):
    subject: str
    verdict: Literal["good", "poor", "bad"]
    text: str


async def examine(settings: Settings) -> list[Finding]:
    """All findings, the bad ones among them. Loads no model."""
    return [
        Finding(subject="Python", verdict="good", text=f"{platform.python_version()} on {platform.platform()}"),
        await device(),
        data_folder(settings),
        port(settings),
        checkpoint(settings),
        *model_files(settings),
        await chat(settings),
    ]


async def device() -> Finding:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOOK_AT_TORCH, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, complaint = await process.communicate()
    if process.returncode:
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        text = f"PyTorch cannot be used: {last}. Remove the folder .venv and start again to install it anew."
        return Finding(subject="Device", verdict="bad", text=text)
    found = json.loads(output)
    if found["cuda"]:
        kind = "ROCm" if found["hip"] else "CUDA"
        return Finding(subject="Device", verdict="good", text=f"{found['name']} ({kind}), PyTorch {found['version']}")
    if found["mps"]:
        return Finding(subject="Device", verdict="good", text=f"Apple GPU (MPS), PyTorch {found['version']}")
    if shutil.which("nvidia-smi"):
        text = (
            f"An NVIDIA driver is here, but PyTorch {found['version']} cannot use it. "
            "Remove the folder .venv and start again with the network on, or update the driver."
        )
        return Finding(subject="Device", verdict="bad", text=text)
    text = f"No GPU found, PyTorch {found['version']} draws on the processor: full-size models take minutes a picture."
    return Finding(subject="Device", verdict="poor", text=text)


def data_folder(settings: Settings) -> Finding:
    try:
        system.hold_folder(settings.data_dir).release()
    except CannotStart as error:
        verdict: Literal["poor", "bad"] = "poor" if "Another studio" in str(error) else "bad"
        return Finding(subject="Data folder", verdict=verdict, text=str(error))
    free = shutil.disk_usage(settings.data_dir).free
    text = f"{settings.data_dir}, {free / 1e9:.0f} GB free"
    if free < LOW_SPACE:
        return Finding(subject="Data folder", verdict="poor", text=f"{text}: free some space, or move it (--data-dir).")
    return Finding(subject="Data folder", verdict="good", text=text)


def port(settings: Settings) -> Finding:
    try:
        with closing(system.listen(settings.host, settings.port)):
            return Finding(subject="Address", verdict="good", text=f"{settings.host}:{settings.port} is free")
    except CannotStart as error:
        return Finding(subject="Address", verdict="poor", text=str(error))


def checkpoint(settings: Settings) -> Finding:
    folder = settings.data_dir / "models" / "checkpoints"
    library = build_library(settings)
    entry = library.default()
    found = entry.path
    if entry == STARTER:
        text = (
            "The starter model: tiny pictures of about a hundred things. For real ones put an SDXL checkpoint "
            f"(.safetensors) into {folder}, or name it with --model."
        )
        return Finding(subject="Image model", verdict="poor", text=text)
    if not found.exists():
        text = f"{found} is not there. Give --model the path of a checkpoint, or a name from {folder}."
        return Finding(subject="Image model", verdict="bad", text=text)
    if problem := library.identity(entry).problem:
        return Finding(subject="Image model", verdict="bad", text=problem)
    return Finding(subject="Image model", verdict="good", text=str(found))


def model_files(settings: Settings) -> list[Finding]:
    """Folders and files that cannot be read."""
    library = build_library(settings)
    entries = [entry for kind in KINDS for entry in library.entries(kind) if kind != "wildcard"]
    damaged = [problem for entry in entries if (problem := library.identity(entry).problem) is not None]
    library.identities.keep()
    problems = [*library.problems(), *damaged]
    shown = [Finding(subject="Model files", verdict="poor", text=problem) for problem in problems[:MOST_FILES]]
    if len(problems) > MOST_FILES:
        text = f"{len(problems) - MOST_FILES} more: `models list` tells them all."
        shown.append(Finding(subject="Model files", verdict="poor", text=text))
    return shown or [Finding(subject="Model files", verdict="good", text=f"{len(entries)}, all of them readable")]


async def chat(settings: Settings) -> Finding:
    backend = build_chat(settings)
    await backend.start()
    try:
        await backend.refresh()
        status = backend.status()
    finally:
        await backend.close()
    if not status.available:
        return Finding(subject="Chat", verdict="poor", text=status.reason or "No model can answer.")
    text = f"{status.model} ({status.name}). {status.note or ''}".strip()
    return Finding(subject="Chat", verdict="poor" if status.note else "good", text=text)
