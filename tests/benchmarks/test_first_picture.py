"""An engine that compiles beside looks for requests without waiting, idle as it is: they are there all the same."""

from benchmarks.first_picture import Requests

from illustrious.images import Admit, Stop
from illustrious.types import ImageRequest


def test_one_after_the_other_and_then_the_end() -> None:
    inbox = Requests(ImageRequest(prompt="one"), ImageRequest(prompt="two"))
    got = []
    for _ in range(3):
        assert inbox.get(wait=False) is None
        inbox.go_on()
        got.append(inbox.get(wait=False))
    assert [type(command) for command in got] == [Admit, Admit, Stop]
