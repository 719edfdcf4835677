"""The models: what there is, by the names that requests call it."""

import asyncio

from fastapi import APIRouter
from pydantic import BaseModel, Field

from illustrious.api import TheStudio
from illustrious.catalog.cards import Card, CheckpointCard, FileCard
from illustrious.images.diffusion import hires, samplers

router = APIRouter(tags=["models"])

WITHOUT_A_FILE = [FileCard(id=name, name=name, capabilities=("upscaling",)) for name in hires.names()]


class Choice(BaseModel):
    name: str
    aliases: tuple[str, ...]


class Models(BaseModel):
    image: list[CheckpointCard]
    chat: list[Card] = Field(description="What answers now.")
    vision: list[Card] = Field(description="What looks at pictures now.")
    lora: list[FileCard]
    embedding: list[FileCard]
    vae: list[FileCard]
    controlnet: list[FileCard]
    upscaler: list[FileCard] = Field(description="Those that need no file first.")
    samplers: list[Choice]
    schedules: list[Choice]
    problems: list[str] = Field(description="What keeps models from being found, and what to do.")


@router.get("/models")
async def models(studio: TheStudio) -> Models:
    """What there is to draw, chat and look with."""
    found = await studio.models()
    names = samplers.names()
    return Models.model_validate(
        {
            **found,
            "upscaler": [*WITHOUT_A_FILE, *found["upscaler"]],
            "problems": await asyncio.to_thread(studio.library.problems),
            "samplers": [{"name": name, "aliases": aliases} for name, aliases in names.samplers.items()],
            "schedules": [{"name": name, "aliases": aliases} for name, aliases in names.schedules.items()],
        }
    )
