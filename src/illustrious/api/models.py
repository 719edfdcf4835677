"""The models: what there is, by the names that requests call it."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from illustrious.api import TheStudio
from illustrious.catalog.cards import Card, CheckpointCard, FileCard
from illustrious.images.diffusion import samplers

router = APIRouter(tags=["models"])


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
    upscaler: list[FileCard]
    samplers: list[Choice]
    schedules: list[Choice]


@router.get("/models")
async def models(studio: TheStudio) -> Models:
    """What there is to draw, chat and look with."""
    found = await studio.models()
    names = samplers.names()
    return Models.model_validate(
        {
            **found,
            "samplers": [{"name": name, "aliases": aliases} for name, aliases in names.samplers.items()],
            "schedules": [{"name": name, "aliases": aliases} for name, aliases in names.schedules.items()],
        }
    )
