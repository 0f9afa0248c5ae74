"""Kinds of values: how they are drawn, how they appear in a request, and which results may replace them.

A tool annotates its parameters and its result with these: `def email(state: State, name: Person) -> Email`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, Literal

SYLLABLES = tuple(consonant + vowel for consonant in "bdfgklmnrstvz" for vowel in "aeiou")
WEATHERS = ("sunny", "cloudy", "rainy", "snowy", "windy", "foggy", "stormy", "clear")
JOBS = ("baker", "nurse", "pilot", "farmer", "lawyer", "singer", "painter", "teacher", "driver", "writer")
MONTHS = ("January", "March", "April", "May", "June", "July", "August", "October", "November")
CHORE_VERBS = ("buy", "bring", "fix", "clean", "paint", "find", "move", "sell", "pack", "wash", "check")
CHORE_NOUNS = ("milk", "shoes", "lamps", "books", "tools", "boxes", "chairs", "coats", "plates", "keys")

Day = Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
Room = Literal["kitchen", "bedroom", "office", "garage", "hall", "attic"]
Cabin = Literal["economy", "business", "first"]


@dataclass(frozen=True, slots=True)
class Kind:
    """Meaning of a value.

    Attributes:
        name: name, unique among the kinds.
        sample: function that draws a value.
        literal: form of a value in a request; `{}` is the value.
        pronouns: words for a result that the request has just named.
        accepts: names of the kinds of results that may be passed instead.
    """

    name: str
    sample: Callable[[Random], Any]
    literal: str = "{}"
    pronouns: tuple[str, ...] = ("it", "that", "the result")
    accepts: tuple[str, ...] = ()


def _word(rng: Random) -> str:
    return "".join(rng.choices(SYLLABLES, k=rng.choice((2, 2, 3))))


def _name(rng: Random) -> str:
    return _word(rng).capitalize()


def _code(rng: Random) -> str:
    return "".join(rng.choices("BDFGKMPRTVXZ", k=2)) + str(rng.randint(10, 99))


def _integer(rng: Random) -> int:
    return rng.randint(1, 999)


def _small(rng: Random) -> int:
    return rng.randint(2, 30)


def _level(rng: Random) -> int:
    return rng.randint(101, 300) if rng.random() < 0.15 else rng.randint(1, 100)


def _decimal(rng: Random) -> float:
    return rng.randint(10, 999) / 10


def _date(rng: Random) -> str:
    return f"{rng.choice(MONTHS)} {rng.randint(1, 28)}"


def _chore(rng: Random) -> str:
    return f"{rng.choice(CHORE_VERBS)} {rng.choice(CHORE_NOUNS)}"


TEXTS = (
    "person", "city", "account", "email", "phone", "date", "job", "address", "nickname", "weather", "day",
    "time", "place", "word",
)  # fmt: skip
INTEGERS = ("money", "count", "percent", "speed", "integer")
DECIMALS = ("miles", "pounds", "fahrenheit", "minutes", "gallons", "feet")

# Names of people, places and things, which a request mentions and a tool looks up.
PERSON = Kind("person", _name, pronouns=("that person",), accepts=("person",))
CITY = Kind("city", _name, pronouns=("that city",), accepts=("city",))
EVENT = Kind("event", _name, literal="the {} event", pronouns=("that event",))
ACCOUNT = Kind("account", _code, literal="account {}", pronouns=("that account",), accepts=("account",))
ITEM = Kind("item", _code, literal="item {}", pronouns=("that item",))
DEVICE = Kind("device", _code, literal="device {}", pronouns=("that device",))

# Texts.
MESSAGE = Kind("message", _chore, literal="'{}'", accepts=TEXTS)
WORD = Kind("word", _word, literal="'{}'", accepts=TEXTS)
EMAIL = Kind("email", lambda rng: f"{_word(rng)}@mail.com")
PHONE = Kind("phone", lambda rng: f"555-{rng.randint(100, 999)}")
DATE = Kind("date", _date)
JOB = Kind("job", lambda rng: rng.choice(JOBS))
ADDRESS = Kind("address", lambda rng: f"{rng.randint(1, 99)} {_name(rng)} Street")
NICKNAME = Kind("nickname", _name)
WEATHER = Kind("weather", lambda rng: rng.choice(WEATHERS))
WEEKDAY = Kind("day", lambda rng: rng.choice(("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")))
TIME = Kind("time", lambda rng: f"{rng.randint(8, 20)}:{rng.choice(('00', '15', '30', '45'))}")
PLACE = Kind("place", lambda rng: f"hall {rng.randint(1, 99)}")
STATUS = Kind("status", lambda rng: "done")

# Whole numbers.
MONEY = Kind("money", _integer, pronouns=("that amount",), accepts=("money", "integer"))
COUNT = Kind("count", _integer)
PERCENT = Kind("percent", lambda rng: rng.randint(1, 100))
SPEED = Kind("speed", lambda rng: rng.randint(1, 90))
INTEGER = Kind("integer", _integer, pronouns=("it", "that number", "the result"), accepts=INTEGERS)
QUANTITY = Kind("quantity", _small)
LEVEL = Kind("level", _level)

# Numbers with a unit.
NUMBER = Kind("number", lambda rng: rng.randint(101, 9999) / 100, accepts=DECIMALS)
KM = Kind("km", _decimal, literal="{} km", accepts=("km",))
KG = Kind("kg", _decimal, literal="{} kg", accepts=("kg",))
CELSIUS = Kind("celsius", _decimal, literal="{} celsius", accepts=("celsius",))
HOURS = Kind("hours", _decimal, literal="{} hours", accepts=("hours",))
LITERS = Kind("liters", _decimal, literal="{} liters")
METERS = Kind("meters", _decimal, literal="{} meters")
MILES = Kind("miles", _decimal)
POUNDS = Kind("pounds", _decimal)
FAHRENHEIT = Kind("fahrenheit", _decimal)
MINUTES = Kind("minutes", _decimal)
GALLONS = Kind("gallons", _decimal)
FEET = Kind("feet", _decimal)

# Answers that are true or false.
TRUTH = Kind("truth", lambda rng: rng.random() < 0.5)

Person = Annotated[str, PERSON]
City = Annotated[str, CITY]
Event = Annotated[str, EVENT]
Account = Annotated[str, ACCOUNT]
Item = Annotated[str, ITEM]
Device = Annotated[str, DEVICE]
Message = Annotated[str, MESSAGE]
Word = Annotated[str, WORD]
Email = Annotated[str, EMAIL]
Phone = Annotated[str, PHONE]
Date = Annotated[str, DATE]
Job = Annotated[str, JOB]
Address = Annotated[str, ADDRESS]
Nickname = Annotated[str, NICKNAME]
Weather = Annotated[str, WEATHER]
Weekday = Annotated[str, WEEKDAY]
Time = Annotated[str, TIME]
Place = Annotated[str, PLACE]
Status = Annotated[str, STATUS]
Money = Annotated[int, MONEY]
Count = Annotated[int, COUNT]
Percent = Annotated[int, PERCENT]
Speed = Annotated[int, SPEED]
Integer = Annotated[int, INTEGER]
Quantity = Annotated[int, QUANTITY]
Level = Annotated[int, LEVEL]
Number = Annotated[float, NUMBER]
Km = Annotated[float, KM]
Kg = Annotated[float, KG]
Celsius = Annotated[float, CELSIUS]
Hours = Annotated[float, HOURS]
Liters = Annotated[float, LITERS]
Meters = Annotated[float, METERS]
Miles = Annotated[float, MILES]
Pounds = Annotated[float, POUNDS]
Fahrenheit = Annotated[float, FAHRENHEIT]
Minutes = Annotated[float, MINUTES]
Gallons = Annotated[float, GALLONS]
Feet = Annotated[float, FEET]
Truth = Annotated[bool, TRUTH]
