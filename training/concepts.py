"""What the small starter model is to know: icons' labels, and the nouns they go by in captions.

The first noun is the commonest. A label not listed here goes by itself, and a label that ends in ``face`` by the animal
too.
"""

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


IRREGULAR = {
    "mouse": "mice",
    "sheep": "sheep",
    "bread": "loaves of bread",
    "man": "men",
    "woman": "women",
    "wolf": "wolves",
    "cherries": "cherries",
}


def plural(noun: str) -> str:
    """
    >>> plural("cup of coffee"), plural("fox"), plural("butterfly"), plural("fish")
    ('cups of coffee', 'foxes', 'butterflies', 'fish')
    """
    head, of, rest = noun.partition(" of ")
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if head.endswith(("s", "sh", "ch", "x")):
        head = head if head in ("grapes", "fish", "swords", "crossed swords") else head + "es"
    elif head.endswith("y") and head[-2] not in "aeiou":
        head = head[:-1] + "ies"
    else:
        head += "s"
    return head + of + rest


def with_article(noun: str) -> str:
    """
    >>> with_article("owl"), with_article("unicorn"), with_article("cherries")
    ('an owl', 'a unicorn', 'cherries')
    """
    if noun in ("cherries", "grapes", "bread", "fire", "swords", "crossed swords"):
        return noun
    return f"an {noun}" if noun[0].lower() in "aeiou" and not noun.startswith("uni") else f"a {noun}"
