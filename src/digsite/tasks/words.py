"""The words of the task families: common knowledge, one list a concept, said once.

`digsite/tinyworld` is a model of a world made of exactly these words.
"""


def listed(line: str) -> tuple[str, ...]:
    """The words of a line."""
    return tuple(line.split())


FEMALE = listed("Lily Mia Sara Anna Amy Lucy Sue Jane Emma Ella Molly Mary Alice Laura Julia Kate")
MALE = listed("Tim Timmy Tom Ben Max Sam Jack Bob Leo John Peter Fred Mark Jake Paul James")
NAMES = FEMALE + MALE

# All begin with a consonant, so that "a" fits before each of them.
PLACES = listed("store park school garden market station house library river beach farm hotel")
GIFTS = listed("drink book ring ball flower key lamp hat letter cake map coin")
CONTAINERS = listed("box bag basket car chest drawer")

# Singular and plural.
NOUNS = {
    "key": "keys", "book": "books", "letter": "letters", "flower": "flowers", "car": "cars", "dog": "dogs",
    "teacher": "teachers", "doctor": "doctors", "farmer": "farmers", "driver": "drivers", "sister": "sisters",
    "picture": "pictures",
}  # fmt: skip

KINDS = {
    "animal": ("cat", "dog", "horse", "cow", "pig", "fox"),
    "fruit": ("pear", "peach", "plum", "banana", "cherry", "lemon"),
    "tool": ("hammer", "drill", "shovel", "wrench", "rake", "screwdriver"),
    "flower": ("tulip", "daisy", "rose", "violet", "poppy", "sunflower"),
    "vehicle": ("car", "bus", "truck", "train", "boat", "bike"),
}

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo", "China": "Beijing",
    "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens", "England": "London", "Ireland": "Dublin",
    "Poland": "Warsaw", "Norway": "Oslo", "Cuba": "Havana", "Austria": "Vienna", "Portugal": "Lisbon",
}  # fmt: skip

SPOKEN = {
    "France": "French", "Italy": "Italian", "Spain": "Spanish", "Germany": "German", "Japan": "Japanese",
    "China": "Chinese", "Russia": "Russian", "Egypt": "Arabic", "Greece": "Greek", "England": "English",
    "Ireland": "English", "Poland": "Polish", "Norway": "Norwegian", "Cuba": "Spanish", "Austria": "German",
    "Portugal": "Portuguese",
}  # fmt: skip

COLORS = {
    "grass": "green", "moss": "green", "snow": "white", "milk": "white", "coal": "black", "ink": "black",
    "blood": "red", "wine": "red", "gold": "yellow", "butter": "yellow",
}  # fmt: skip

# What follows what, and whether the last is followed by the first.
SEQUENCES: dict[str, tuple[tuple[str, ...], bool]] = {
    "days": (listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"), True),
    "months": (
        listed("January February March April May June July August September October November December"),
        True,
    ),
    "number words": (listed("one two three four five six seven eight nine ten eleven twelve"), False),
    "numbers": (tuple(str(number) for number in range(1, 25)), False),
    "letters": (tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), False),
}

EVENTS = listed("war trip siege voyage project trial famine journey")

PARAMETERS = listed("size path limit name file index value count speed depth width color")
FUNCTIONS = listed("find load save sort")
TYPES = listed("text number list")

# Words without order or meaning between them, for lists that repeat.
LOOSE = tuple(sorted({*PLACES, *GIFTS, *CONTAINERS, *(word for kind in KINDS.values() for word in kind)}))
