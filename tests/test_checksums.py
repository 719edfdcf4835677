from pathlib import Path

import pytest

from illustrious.checksums import verify
from illustrious.errors import Unavailable

DIGEST = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of "hello"


def test_files_that_are_what_they_were_pass(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a").write_text("hello")
    (tmp_path / "SHA256SUMS").write_text(f"{DIGEST}  weights/a\n")
    verify(tmp_path, "The model")


@pytest.mark.parametrize(
    ("changed", "reason"), [("hallo", "weights is not what it was"), (None, "weights cannot be read: No such file")]
)
def test_others_are_named(tmp_path: Path, changed: str | None, reason: str) -> None:
    if changed:
        (tmp_path / "weights").write_text(changed)
    (tmp_path / "SHA256SUMS").write_text(f"{DIGEST}  weights\n")
    with pytest.raises(Unavailable, match=f"^The model is damaged .{reason}.*Install the studio again"):
        verify(tmp_path, "The model")


def test_one_alone_is_looked_at_when_it_is_the_one_that_is_needed(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("hello")
    (tmp_path / "others").write_text("hello")
    (tmp_path / "SHA256SUMS").write_text(f"{DIGEST}  weights\n{DIGEST[::-1]}  others\n")
    verify(tmp_path, "The model", only="weights")
    for wrong in ("others", "SHA256SUMS"):
        with pytest.raises(Unavailable, match=f"{wrong} is not what it was"):
            verify(tmp_path, "The model", only=wrong)
