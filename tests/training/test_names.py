import pytest
from training.names import coloured, counted, kind, name

LABELS = frozenset(
    {"man", "woman", "person", "person running", "man running", "astronaut", "mage", "people with bunny ears"}
)


@pytest.mark.parametrize(
    ("label", "noun"),
    [
        ("cat face", "cat"),
        ("black cat", "cat"),
        ("grinning face", "grinning face"),
        ("light blue heart", "heart"),
        ("half-past", "half-past"),
        ("three-thirty", "clock"),
        ("twelve o’clock", "clock"),
        ("woman", "woman"),
        ("man running: facing right", "person running"),
        ("woman astronaut", "astronaut"),
        ("woman mage", "wizard"),
        ("women with bunny ears", "people with bunny ears"),
        ("family: man, woman, boy", "family"),
        ("kiss: man, man", "kissing couple"),
        ("woman: red hair", "woman with red hair"),
        ("man: bald", "bald man"),
        ("person: bald", None),
        ("hot beverage", "cup of coffee"),
    ],
)
def test_labels_of_one_thing_have_one_name(label: str, noun: str | None) -> None:
    assert name(label, LABELS) == noun


def test_what_no_part_of_the_table_names_is_an_object() -> None:
    assert kind(3, 34) == "an animal"
    assert kind(0, 11) == "a figure"
    assert kind(7, 81) == kind(6, 60) == "an object"


@pytest.mark.parametrize(
    ("noun", "has_article"),
    [("bus", True), ("compass", True), ("glass of milk", True), ("eyes", False), ("popcorn", False)],
)
def test_what_is_many_or_a_mass_has_no_article(noun: str, has_article: bool) -> None:
    assert counted(noun) == has_article


def test_a_face_and_a_person_are_not_called_by_a_colour() -> None:
    assert coloured("fox", "an animal")
    assert not coloured("grinning face", "a face")
    assert not coloured("rainbow", "something in the sky")
