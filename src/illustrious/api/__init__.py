"""The HTTP edge: one file per dialect, each with its bodies, its translation to nouns and its ``router``."""

from typing import Annotated

from fastapi import Depends, Request

from illustrious.service import Studio


def studio_of(request: Request) -> Studio:
    studio: Studio = request.app.state.studio
    return studio


TheStudio = Annotated[Studio, Depends(studio_of)]
