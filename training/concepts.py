"""What the small starter model is to know: icons' labels, and the nouns they go by in captions.

The first noun is the commonest. A label not listed here goes by itself, and a label that ends in ``face`` by the animal
too.
"""

import re
from functools import cache

NOUNS: dict[str, tuple[str, ...]] = {
    "red apple": ("apple",),
    "red heart": ("heart",),
    "woman: blond hair": ("woman with blond hair",),
    "man: beard": ("man with a beard",),
    "automobile": ("car", "automobile"),
    "hot beverage": ("cup of coffee", "hot beverage"),
    "deciduous tree": ("tree", "deciduous tree"),
    "evergreen tree": ("fir tree", "evergreen tree"),
    "wrapped gift": ("gift", "wrapped gift"),
    "honeybee": ("bee", "honeybee"),
    "mage": ("wizard", "mage"),
    "locomotive": ("steam train", "locomotive"),
    "gem stone": ("gem", "diamond", "gem stone"),
    "jack-o-lantern": ("pumpkin", "jack-o-lantern"),
    "crescent moon": ("crescent moon", "moon"),
    "smiling face with sunglasses": ("smiling face with sunglasses", "cool face"),
    "smiling face with heart-eyes": ("smiling face with heart-eyes", "face in love"),
    "water wave": ("ocean wave", "water wave", "wave"),
    "Christmas tree": ("Christmas tree",),
    "snow-capped mountain": ("snowy mountain", "mountain with snow"),
    "cityscape": ("cityscape",),
    "tangerine": ("orange fruit", "tangerine"),
    "hatching chick": ("hatching chick",),
    "front-facing baby chick": ("chick", "baby chick"),
    "monkey face": ("monkey face", "monkey"),
    "beer mug": ("beer mug", "glass of beer"),
    "wine glass": ("glass of wine", "wine glass"),
    "pickup truck": ("pickup truck", "truck"),
    "T-Rex": ("dinosaur", "T-Rex"),
    "ringed planet": ("planet", "ringed planet"),
    "cherry blossom": ("cherry blossom", "flower"),
    "bouquet": ("bouquet", "bouquet of flowers"),
    "crossed swords": ("crossed swords", "swords"),
}

FIRST = (
    "cloud", "crescent moon", "light bulb", "red heart", "gem stone", "grinning face", "angry face", "sunrise", "alien",
    "sailboat", "bus", "sunrise over mountains", "mountain", "smiling face with sunglasses", "fire", "wrapped gift",
    "ghost", "man", "lemon", "woman", "balloon", "mushroom", "skull", "deciduous tree", "crying face", "red apple",
    "panda", "desert", "girl", "star", "carrot", "rose", "whale", "water wave", "soccer ball", "turtle", "rainbow",
    "foggy", "tulip", "evergreen tree", "pizza", "cat face", "frog", "cherries", "elephant", "woman: blond hair",
    "house", "banana", "hot beverage", "automobile", "ice cream", "dog face", "horse face", "castle", "snail",
    "airplane", "sunflower", "palm tree", "octopus", "strawberry", "princess", "honeybee", "penguin", "crystal ball",
    "guitar", "fairy", "jack-o-lantern", "rabbit face", "grapes", "national park", "smiling face with heart-eyes",
    "robot", "desert island", "sun", "volcano", "dragon face", "wolf", "fish", "cactus", "cityscape at dusk",
    "cityscape", "owl", "rocket", "unicorn", "hamburger", "watermelon", "mage", "sunset", "crown", "dragon",
    "night with stars", "birthday cake", "lion", "bicycle", "hot dog", "astronaut", "fox", "doughnut", "man: beard",
    "snowman", "Christmas tree", "locomotive", "milky way", "butterfly", "bridge at night",
)  # fmt: skip
"""What the first starter model knew."""

ADDED = (
    "tiger", "bear", "dolphin", "duck", "bird", "spider", "snake", "T-Rex", "mermaid", "teddy bear", "peach",
    "pineapple", "cherry blossom", "bouquet", "crossed swords", "key", "umbrella", "camera", "helicopter", "motorcycle",
    "ship", "snowflake", "ringed planet", "treasure chest",
)  # fmt: skip
"""What it is taught since: things people ask for."""

STARTER = FIRST + ADDED

NATURE_COLOUR_ONLY = frozenset(
    {
        "sunrise", "sunrise over mountains", "desert", "rainbow", "foggy", "national park", "desert island", "volcano",
        "cityscape at dusk", "cityscape", "sunset", "night with stars", "milky way", "bridge at night", "man", "woman",
        "girl", "woman: blond hair", "man: beard", "princess", "fairy", "mage", "astronaut", "mermaid", "vampire",
        "smiling face with sunglasses", "smiling face with heart-eyes", "pizza", "snowman", "soccer ball", "mountain",
        "bouquet",
    }
)  # fmt: skip
"""Never painted in another colour: scenes, people, and what would no longer be it."""

FULL_SQUARE = frozenset(
    {
        "sunrise", "sunrise over mountains", "desert", "foggy", "national park", "cityscape at dusk", "cityscape",
        "sunset", "night with stars", "milky way", "bridge at night",
    }
)  # fmt: skip
"""Icons that are whole pictures: never counted, paired or put into a place."""


def nouns(label: str) -> tuple[str, ...]:
    """The nouns of an icon, commonest first.

    >>> nouns("cat face"), nouns("red apple"), nouns("owl")
    (('cat face', 'cat'), ('apple',), ('owl',))
    """
    if label in NOUNS:
        return NOUNS[label]
    animal = label.removesuffix(" face")
    if animal != label and animal not in ("grinning", "angry", "crying"):
        return (label, animal)
    return (label,)


@cache
def alike(label: str) -> tuple[str, ...]:
    """The label, and others that share a noun with it.

    >>> alike("dragon"), alike("owl")
    (('dragon', 'dragon face'), ('owl',))
    """
    own = set(nouns(label))
    return (label, *(other for other in STARTER if other != label and own & set(nouns(other))))


IRREGULAR = {
    "child": "children",
    "person": "people",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
    "ox": "oxen",
    "wolf": "wolves",
    "elf": "elves",
    "leaf": "leaves",
    "knife": "knives",
    "tomato": "tomatoes",
    "potato": "potatoes",
    "volcano": "volcanoes",
    "superhero": "superheroes",
}

SEVERAL = frozenset({"cherries", "grapes", "swords", "glasses", "scissors", "chopsticks"})
"""What is many in one icon already."""

UNCHANGED = SEVERAL | {"fish", "blowfish", "sheep", "deer", "bison", "people"}

MASS = frozenset({"bread", "fire"})
"""What has no article."""


def plural(noun: str) -> str:
    """
    >>> plural("cup of coffee"), plural("purple wolf"), plural("butterfly"), plural("blue fish"), plural("red cherries")
    ('cups of coffee', 'purple wolves', 'butterflies', 'blue fish', 'red cherries')
    >>> plural("woman with blond hair"), plural("person running"), plural("crossed swords")
    ('women with blond hair', 'people running', 'crossed swords')
    """
    before, head, after = _parts(noun)
    if head in IRREGULAR:
        head = IRREGULAR[head]
    elif head.endswith("man"):  # and a snowman, and a woman
        head = head[:-3] + "men"
    elif head in UNCHANGED:
        pass
    elif head.endswith(("s", "sh", "ch", "x")):
        head += "es"
    elif head.endswith("y") and head[-2] not in "aeiou":
        head = head[:-1] + "ies"
    else:
        head += "s"
    return before + head + after


def with_article(noun: str) -> str:
    """
    >>> with_article("owl"), with_article("unicorn"), with_article("red cherries"), with_article("orange background")
    ('an owl', 'a unicorn', 'red cherries', 'an orange background')
    """
    _, head, _ = _parts(noun)
    if head in SEVERAL | MASS:
        return noun
    return f"an {noun}" if noun[0].lower() in "aeiou" and not noun.startswith("uni") else f"a {noun}"


_NOUN = re.compile(r"(.*?)([\w-]+)((?: (?:of|with|without|in|on|at|behind|over|for|from) .*| \w+ing(?: .*)?)?)")


def _parts(noun: str) -> tuple[str, str, str]:
    """What stands before the word that is inflected, that word, and what comes after it."""
    found = _NOUN.fullmatch(noun)
    if found is None:
        raise ValueError(f"{noun!r} is no noun.")
    before, head, after = found.groups()
    return before, head, after
