from __future__ import annotations

import pytest

from cahl_pl.toolworld import ToolError
from cahl_pl.toolworld.registry import MissingEntryError
from cahl_pl.toolworld.tools import TOOLS

# Tool, its arguments, the state it needs, what it returns.
EXAMPLES = [
    ("contacts.email", ("Bero",), {"email": {"Bero": "a@mail.com"}}, "a@mail.com"),
    ("contacts.phone", ("Bero",), {"phone": {"Bero": "555-123"}}, "555-123"),
    ("contacts.birthday", ("Bero",), {"birthday": {"Bero": "May 4"}}, "May 4"),
    ("contacts.job", ("Bero",), {"job": {"Bero": "baker"}}, "baker"),
    ("contacts.city", ("Bero",), {"city": {"Bero": "Lako"}}, "Lako"),
    ("contacts.address", ("Bero",), {"address": {"Bero": "3 Lako Street"}}, "3 Lako Street"),
    ("contacts.nickname", ("Bero",), {"nickname": {"Bero": "Be"}}, "Be"),
    ("weather.weather", ("Lako",), {"weather": {"Lako": "foggy"}}, "foggy"),
    ("weather.temperature", ("Lako",), {"temperature": {"Lako": 12.5}}, 12.5),
    ("weather.humidity", ("Lako",), {"humidity": {"Lako": 60}}, 60),
    ("weather.wind", ("Lako",), {"wind": {"Lako": 7}}, 7),
    ("bank.balance", ("KV47",), {"balance": {"KV47": 100}}, 100),
    ("bank.account", ("Bero",), {"account": {"Bero": "KV47"}}, "KV47"),
    ("bank.deposit", ("KV47", 30), {"balance": {"KV47": 100}}, 130),
    ("bank.withdraw", ("KV47", 30), {"balance": {"KV47": 100}}, 70),
    ("bank.debt", ("KV47",), {"debt": {"KV47": 9}}, 9),
    ("shop.price", ("ZD12",), {"price": {"ZD12": 40}}, 40),
    ("shop.stock", ("ZD12",), {"stock": {"ZD12": 8}}, 8),
    ("shop.order", ("ZD12", 3), {"stock": {"ZD12": 8}}, 5),
    ("shop.give_back", ("ZD12", 3), {"stock": {"ZD12": 8}}, 11),
    ("shop.weight", ("ZD12",), {"weight": {"ZD12": 2.5}}, 2.5),
    ("shop.discount", ("ZD12",), {"discount": {"ZD12": 4}}, 4),
    ("calendar.day", ("Zuma",), {"day": {"Zuma": "Monday"}}, "Monday"),
    ("calendar.time", ("Zuma",), {"time": {"Zuma": "9:15"}}, "9:15"),
    ("calendar.host", ("Zuma",), {"host": {"Zuma": "Bero"}}, "Bero"),
    ("calendar.add_event", ("Zuma", "Monday"), {}, "added"),
    ("calendar.cancel_event", ("Zuma",), {"day": {"Zuma": "Monday"}}, "cancelled"),
    ("calendar.is_free", ("Bero", "Monday"), {"Monday plan": {"Bero": True}}, True),
    ("calendar.venue", ("Zuma",), {"venue": {"Zuma": "hall 3"}}, "hall 3"),
    ("messages.text", ("Bero", "buy milk"), {"phone": {"Bero": "555-123"}}, "sent"),
    ("messages.letter", ("Bero", "buy milk"), {"address": {"Bero": "3 Lako Street"}}, "sent"),
    ("messages.note", ("Bero", "buy milk"), {"desk": {"Bero": "hall 3"}}, "sent"),
    ("messages.page", ("Bero", "buy milk"), {"pager": {"Bero": "Be"}}, "sent"),
    ("messages.fax", ("Bero", "buy milk"), {"fax": {"Bero": "555-123"}}, "sent"),
    ("messages.postcard", ("Bero", "buy milk"), {"address": {"Bero": "3 Lako Street"}}, "sent"),
    ("units.km_to_miles", (10.0,), None, 6.21),
    ("units.kg_to_pounds", (10.0,), None, 22.05),
    ("units.celsius_to_fahrenheit", (20.0,), None, 68.0),
    ("units.hours_to_minutes", (1.5,), None, 90.0),
    ("units.liters_to_gallons", (10.0,), None, 2.64),
    ("units.meters_to_feet", (10.0,), None, 32.81),
    ("numbers.add", (7, 5), None, 12),
    ("numbers.multiply", (7, 5), None, 35),
    ("numbers.subtract", (7, 5), None, 2),
    ("numbers.larger", (7, 5), None, 7),
    ("numbers.round_number", (12.57,), None, 13),
    ("numbers.smaller", (7, 5), None, 5),
    ("numbers.remainder", (17, 5), None, 2),
    ("text.reverse", ("lako",), None, "okal"),
    ("text.capitals", ("lako",), None, "LAKO"),
    ("text.length", ("lako",), None, 4),
    ("text.first_letter", ("lako",), None, "l"),
    ("text.last_letter", ("lako",), None, "o"),
    ("travel.distance", ("Lako", "Nemi"), {"distance": {"Lako-Nemi": 80.5}}, 80.5),
    ("travel.travel_time", ("Lako", "Nemi"), {"travel time": {"Lako-Nemi": 1.5}}, 1.5),
    ("travel.flight_price", ("Lako", "Nemi", "first"), {"first flight": {"Lako-Nemi": 700}}, 700),
    ("travel.train_price", ("Lako", "Nemi"), {"train": {"Lako-Nemi": 70}}, 70),
    ("travel.bus_price", ("Lako", "Nemi"), {"bus": {"Lako-Nemi": 20}}, 20),
    ("travel.ferry_price", ("Lako", "Nemi"), {"ferry": {"Lako-Nemi": 30}}, 30),
    ("travel.book_hotel", ("Lako", 3), {"hotel": {"Lako": 10}}, 7),
    ("home.switch_device", ("DX10", True), {"device": {"DX10": False}}, "on"),
    ("home.light", ("hall", 40), {}, "set"),
    ("home.heating", ("hall", 40), {}, "set"),
    ("home.fan", ("hall", 40), {}, "set"),
]


def call(tool, arguments, state):
    function = TOOLS[tool].function
    return function(*arguments) if state is None else function(state, *arguments)


@pytest.mark.parametrize(("tool", "arguments", "state", "result"), EXAMPLES)
def test_result(tool, arguments, state, result):
    answer = call(tool, arguments, state)
    assert answer == result
    assert type(answer) is type(result)


def test_every_tool_has_an_example():
    assert {example[0] for example in EXAMPLES} == set(TOOLS)


@pytest.mark.parametrize(
    ("tool", "arguments", "state", "after"),
    [
        ("bank.deposit", ("KV47", 30), {"balance": {"KV47": 100}}, {"balance": {"KV47": 130}}),
        ("bank.withdraw", ("KV47", 100), {"balance": {"KV47": 100}}, {"balance": {"KV47": 0}}),
        ("shop.order", ("ZD12", 8), {"stock": {"ZD12": 8}}, {"stock": {"ZD12": 0}}),
        ("shop.give_back", ("ZD12", 8), {"stock": {"ZD12": 8}}, {"stock": {"ZD12": 16}}),
        ("calendar.add_event", ("Zuma", "Monday"), {}, {"day": {"Zuma": "Monday"}}),
        ("calendar.cancel_event", ("Zuma",), {"day": {"Zuma": "Monday"}}, {"day": {}}),
        ("travel.book_hotel", ("Lako", 10), {"hotel": {"Lako": 10}}, {"hotel": {"Lako": 0}}),
        ("home.switch_device", ("DX10", True), {"device": {"DX10": False}}, {"device": {"DX10": True}}),
        ("home.light", ("hall", 0), {}, {"light": {"hall": 0}}),
        ("home.heating", ("hall", 100), {}, {"heating": {"hall": 100}}),
        ("home.fan", ("hall", 5), {}, {"fan": {"hall": 5}}),
    ],
)
def test_state_after(tool, arguments, state, after):
    call(tool, arguments, state)
    assert state == after


@pytest.mark.parametrize(
    ("tool", "arguments", "state", "reason"),
    [
        ("bank.deposit", ("KV47", 0), {"balance": {"KV47": 100}}, "amount must be positive"),
        ("bank.withdraw", ("KV47", -5), {"balance": {"KV47": 100}}, "amount must be positive"),
        ("bank.withdraw", ("KV47", 101), {"balance": {"KV47": 100}}, "balance too low"),
        ("shop.order", ("ZD12", 9), {"stock": {"ZD12": 8}}, "not enough stock"),
        ("shop.order", ("ZD12", 0), {"stock": {"ZD12": 8}}, "quantity must be positive"),
        ("shop.give_back", ("ZD12", 0), {"stock": {"ZD12": 8}}, "quantity must be positive"),
        ("calendar.add_event", ("Zuma", "Monday"), {"day": {"Zuma": "Friday"}}, "event already exists"),
        ("travel.book_hotel", ("Lako", 11), {"hotel": {"Lako": 10}}, "hotel is full"),
        ("travel.book_hotel", ("Lako", -1), {"hotel": {"Lako": 10}}, "nights must be positive"),
        ("home.light", ("hall", 101), {}, "level must be 0 to 100"),
        ("home.fan", ("hall", -1), {}, "level must be 0 to 100"),
        ("numbers.remainder", (5, 0), None, "division by zero"),
        ("text.first_letter", ("",), None, "empty text"),
        ("text.last_letter", ("",), None, "empty text"),
    ],
)
def test_refusals(tool, arguments, state, reason):
    with pytest.raises(ToolError, match=reason):
        call(tool, arguments, state)


@pytest.mark.parametrize(("tool", "arguments"), [(tool, arguments) for tool, arguments, state, _ in EXAMPLES if state])
def test_missing_entries(tool, arguments):
    with pytest.raises(MissingEntryError, match=r"^no [A-Za-z ]+ for \w+"):
        call(tool, arguments, {})


def test_size_of_the_world():
    seen = [tool for tool in TOOLS.values() if not tool.unseen]
    unseen = [tool for tool in TOOLS.values() if tool.unseen]
    assert len(seen) >= 24
    assert len({tool.domain for tool in seen}) >= 6
    assert len(unseen) >= 8
    # Unseen tools are siblings of seen ones.
    assert {tool.domain for tool in unseen} <= {tool.domain for tool in seen}


def test_names_are_varied_and_never_shared():
    names = [name for tool in TOOLS.values() for name in tool.names]
    assert len(names) == len(set(names))
    for tool in TOOLS.values():
        assert len(tool.names) >= 2
        assert 2 <= len(tool.descriptions) <= 3
        assert all(3 <= len(text.split()) <= 6 for text in tool.descriptions), tool.id
        assert 1 <= len(tool.parameters) <= 3
        aliases = [alias for parameter in tool.parameters.values() for alias in parameter.aliases]
        assert len(aliases) == len(set(aliases)), tool.id
        assert all(len(parameter.aliases) >= 2 for parameter in tool.parameters.values())
        assert tool.function.__doc__


def test_phrases_name_every_parameter():
    for tool in TOOLS.values():
        for phrase in tool.asks + tool.orders:
            assert all(phrase.count(f"{{{name}}}") == 1 for name in tool.parameters), phrase
        # Each noun phrase is asked for in several ways (wording.VERBS).
        assert len(tool.asks) * 3 + len(tool.orders) >= 4, tool.id
