"""The nouns: what a request may say, and what follows from it."""

import pytest
from pydantic import ValidationError

from illustrious.types import ImageRequest, told


@pytest.mark.parametrize(
    ("said", "speed", "exact"),
    [
        ({}, "exact", True),
        ({"speed": "exact"}, "exact", True),
        ({"speed": "balanced"}, "balanced", False),
        ({"speed": "fast"}, "fast", False),
        ({"exact": True}, "exact", True),
        ({"exact": False}, "balanced", False),
        ({"speed": "fast", "exact": False}, "fast", False),
    ],
)
def test_speed_and_exact_say_the_same_whichever_is_set(said: dict[str, object], speed: str, exact: bool) -> None:
    request = ImageRequest.model_validate(said)
    assert (request.speed, request.exact) == (speed, exact)
    assert ImageRequest.model_validate_json(request.model_dump_json()) == request
    assert ImageRequest.model_validate({**told(request)}) == request


@pytest.mark.parametrize("said", [{"speed": "fast", "exact": True}, {"speed": "exact", "exact": False}])
def test_a_contradiction_is_refused_with_what_to_leave_out(said: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="leave exact out"):
        ImageRequest.model_validate(said)
