"""What is kept in memory, and what goes first."""

from illustrious.images.diffusion.recent import Recent


def test_a_kept_value_is_not_loaded_again() -> None:
    kept = Recent[bytes](100, len)
    value = kept.get("a", lambda: bytes(60))
    assert kept.get("a", lambda: bytes(1)) is value
    assert kept.bytes == 60


def test_the_least_recently_used_goes_when_room_is_short() -> None:
    kept = Recent[bytes](100, len)
    for key in ("a", "b", "a", "c"):
        kept.get(key, lambda: bytes(40))
    loaded = []
    for key in ("a", "c", "b"):
        kept.get(key, lambda key=key: loaded.append(key) or bytes(40))
    assert loaded == ["b"]


def test_one_that_is_larger_than_the_room_stays_alone() -> None:
    kept = Recent[bytes](100, len)
    kept.get("small", lambda: bytes(10))
    large = kept.get("large", lambda: bytes(1000))
    assert kept.get("large", lambda: bytes(1)) is large
    assert kept.bytes == 1000


def test_it_can_be_emptied() -> None:
    kept = Recent[bytes](100, len)
    kept.get("a", lambda: bytes(60))
    kept.clear()
    assert kept.bytes == 0
