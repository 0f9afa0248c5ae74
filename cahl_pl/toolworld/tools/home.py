"""Home: lights, heating and devices."""

from __future__ import annotations

from cahl_pl.toolworld.kinds import TRUTH, Device, Level, Room, Status
from cahl_pl.toolworld.registry import State, ToolError, lookup, tool

ROOM = ("room", "place", "where")
LEVEL_NAMES = ("level", "percent", "setting")


@tool(
    names=("switch_device", "set_device", "device_switch"),
    parameters={"device": ("device", "device_id", "machine"), "on": ("on", "power", "running")},
    descriptions=("switch a device on or off", "turn a device on", "power of a device"),
    orders=(
        "switch {on} {device}",
        "turn {on} {device}",
        "switch {device} {on}",
        "turn {device} {on}",
    ),
)
def switch_device(state: State, device: Device, on: bool) -> Status:
    """Switch a device on or off."""
    lookup(state, "device", device, TRUTH)
    state["device"][device] = on
    return "on" if on else "off"


@tool(
    names=("set_light", "change_light", "light_level"),
    parameters={"room": ROOM, "level": LEVEL_NAMES},
    descriptions=("set the light", "change the light level", "the light in a room"),
    orders=(
        "set the light in the {room} to {level}",
        "set the {room} light to {level}",
        "change the light in the {room} to {level}",
        "in the {room}, set the light to {level}",
    ),
)
def light(state: State, room: Room, level: Level) -> Status:
    """Set the light of a room to a level of 0 to 100."""
    return _set(state, "light", room, level)


@tool(
    names=("set_heating", "change_heating", "heating_level"),
    parameters={"room": ROOM, "level": LEVEL_NAMES},
    descriptions=("set the heating", "change the heating level", "the heating in a room"),
    orders=(
        "set the heating in the {room} to {level}",
        "set the {room} heating to {level}",
        "change the heating in the {room} to {level}",
        "in the {room}, set the heating to {level}",
    ),
)
def heating(state: State, room: Room, level: Level) -> Status:
    """Set the heating of a room to a level of 0 to 100."""
    return _set(state, "heating", room, level)


@tool(
    names=("set_fan", "change_fan", "fan_level"),
    parameters={"room": ROOM, "level": LEVEL_NAMES},
    descriptions=("set the fan", "change the fan level", "the fan in a room"),
    orders=(
        "set the fan in the {room} to {level}",
        "set the {room} fan to {level}",
        "change the fan in the {room} to {level}",
        "in the {room}, set the fan to {level}",
    ),
    unseen=True,
)
def fan(state: State, room: Room, level: Level) -> Status:
    """Set the fan of a room to a level of 0 to 100."""
    return _set(state, "fan", room, level)


def _set(state: State, what: str, room: str, level: int) -> str:
    if not 0 <= level <= 100:
        raise ToolError("level must be 0 to 100")
    state.setdefault(what, {})[room] = level
    return "set"
