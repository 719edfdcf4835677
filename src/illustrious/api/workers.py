"""The processes behind the studio."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from illustrious.api import TheStudio

router = APIRouter(tags=["workers"])


class WorkerAnswer(BaseModel):
    id: str
    kind: Literal["image", "chat", "vision"]
    pid: int | None = Field(description="null while no process runs.")
    device: str | None
    state: str
    model: str | None
    progress: float | None = Field(None, description="How far its model has loaded, 0 to 1; null while it does not.")
    rss: int = Field(description="Bytes of main memory; 0 while no process runs.")
    vram: int = Field(0, description="Bytes of its GPU's memory.")
    restarts: int = 0


class Workers(BaseModel):
    workers: list[WorkerAnswer]


@router.get("/workers")
async def workers(studio: TheStudio) -> Workers:
    return Workers(workers=[WorkerAnswer(**worker.model_dump()) for worker in studio.processes()])
