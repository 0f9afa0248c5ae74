"""Calendar: events and who is free."""

from __future__ import annotations

from cahl_pl.toolworld.kinds import (
    PERSON,
    PLACE,
    TIME,
    TRUTH,
    WEEKDAY,
    Day,
    Event,
    Person,
    Place,
    Status,
    Time,
    Truth,
    Weekday,
)
from cahl_pl.toolworld.registry import State, ToolError, lookup, tool

EVENT_NAMES = ("event", "title", "meeting")


@tool(
    names=("get_day", "find_day", "day_of"),
    parameters={"event": EVENT_NAMES},
    descriptions=("day of an event", "look up the day", "the day of a meeting"),
    asks=("the day of {event}", "the day for {event}", "the weekday of {event}"),
)
def day(state: State, event: Event) -> Weekday:
    """Day of an event."""
    return str(lookup(state, "day", event, WEEKDAY))


@tool(
    names=("get_time", "find_time", "time_of"),
    parameters={"event": EVENT_NAMES},
    descriptions=("time of an event", "look up the time", "the time of a meeting"),
    asks=("the time of {event}", "the time for {event}", "the starting time of {event}"),
)
def time(state: State, event: Event) -> Time:
    """Starting time of an event."""
    return str(lookup(state, "time", event, TIME))


@tool(
    names=("get_host", "find_host", "host_of"),
    parameters={"event": EVENT_NAMES},
    descriptions=("host of an event", "look up the host", "the host of a meeting"),
    asks=("the host of {event}", "the host for {event}", "the current host of {event}"),
)
def host(state: State, event: Event) -> Person:
    """Name of the person who hosts an event."""
    return str(lookup(state, "host", event, PERSON))


@tool(
    names=("add_event", "schedule_event", "plan_event"),
    parameters={"event": EVENT_NAMES, "day": ("day", "weekday", "date")},
    descriptions=("add an event on a day", "schedule a new event", "plan a meeting"),
    orders=(
        "add {event} on {day}",
        "schedule {event} on {day}",
        "schedule {event} for {day}",
        "on {day}, schedule {event}",
    ),
)
def add_event(state: State, event: Event, day: Day) -> Status:
    """Put an event into the calendar."""
    if event in state.get("day", {}):
        raise ToolError("event already exists")
    state.setdefault("day", {})[event] = day
    return "added"


@tool(
    names=("cancel_event", "drop_event", "event_cancel"),
    parameters={"event": EVENT_NAMES},
    descriptions=("cancel an event", "cancel a planned meeting", "drop an event"),
    orders=("cancel {event}", "drop {event}", "cancel {event} for me", "drop {event} from my calendar"),
)
def cancel_event(state: State, event: Event) -> Status:
    """Take an event out of the calendar."""
    lookup(state, "day", event, WEEKDAY)
    del state["day"][event]
    return "cancelled"


@tool(
    names=("is_free", "check_free", "free_on"),
    parameters={"name": ("name", "person", "contact"), "day": ("day", "weekday", "date")},
    descriptions=("is a person free", "check who is free", "whether a contact is free"),
    asks=(
        "whether {name} is free on {day}",
        "whether on {day} {name} is free",
        "if {name} is free on {day}",
        "if on {day} {name} is free",
    ),
)
def is_free(state: State, name: Person, day: Day) -> Truth:
    """Whether a person is free on a day."""
    return bool(lookup(state, f"{day} plan", name, TRUTH))


@tool(
    names=("get_venue", "find_venue", "venue_of"),
    parameters={"event": EVENT_NAMES},
    descriptions=("venue of an event", "look up the venue", "the venue of a meeting"),
    asks=("the venue of {event}", "the venue for {event}", "the current venue of {event}"),
    unseen=True,
)
def venue(state: State, event: Event) -> Place:
    """Venue of an event."""
    return str(lookup(state, "venue", event, PLACE))
