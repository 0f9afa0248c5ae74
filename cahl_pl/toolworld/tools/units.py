"""Units: conversions, which need no state."""

from __future__ import annotations

from cahl_pl.toolworld.kinds import (
    Celsius,
    Fahrenheit,
    Feet,
    Gallons,
    Hours,
    Kg,
    Km,
    Liters,
    Meters,
    Miles,
    Minutes,
    Pounds,
)
from cahl_pl.toolworld.registry import tool

VALUE = ("value", "number", "x")


@tool(
    names=("km_to_miles", "convert_km_to_miles", "miles_from_km"),
    parameters={"value": VALUE},
    descriptions=("convert km to miles", "change km into miles", "km in miles"),
    asks=("{value} in miles", "{value} converted to miles"),
    orders=("convert {value} to miles", "change {value} into miles", "turn {value} into miles"),
)
def km_to_miles(value: Km) -> Miles:
    """Convert km to miles, to two decimals."""
    return round(value * 0.621371, 2)


@tool(
    names=("kg_to_pounds", "convert_kg_to_pounds", "pounds_from_kg"),
    parameters={"value": VALUE},
    descriptions=("convert kg to pounds", "change kg into pounds", "kg in pounds"),
    asks=("{value} in pounds", "{value} converted to pounds"),
    orders=("convert {value} to pounds", "change {value} into pounds", "turn {value} into pounds"),
)
def kg_to_pounds(value: Kg) -> Pounds:
    """Convert kg to pounds, to two decimals."""
    return round(value * 2.20462, 2)


@tool(
    names=("celsius_to_fahrenheit", "convert_celsius_to_fahrenheit", "fahrenheit_from_celsius"),
    parameters={"value": VALUE},
    descriptions=("convert celsius to fahrenheit", "change celsius into fahrenheit", "celsius in fahrenheit"),
    asks=("{value} in fahrenheit", "{value} converted to fahrenheit"),
    orders=(
        "convert {value} to fahrenheit",
        "change {value} into fahrenheit",
        "turn {value} into fahrenheit",
    ),
)
def celsius_to_fahrenheit(value: Celsius) -> Fahrenheit:
    """Convert celsius to fahrenheit, to two decimals."""
    return round(value * 1.8 + 32.0, 2)


@tool(
    names=("hours_to_minutes", "convert_hours_to_minutes", "minutes_from_hours"),
    parameters={"value": VALUE},
    descriptions=("convert hours to minutes", "change hours into minutes", "hours in minutes"),
    asks=("{value} in minutes", "{value} converted to minutes"),
    orders=("convert {value} to minutes", "change {value} into minutes", "turn {value} into minutes"),
)
def hours_to_minutes(value: Hours) -> Minutes:
    """Convert hours to minutes, to two decimals."""
    return round(value * 60.0, 2)


@tool(
    names=("liters_to_gallons", "convert_liters_to_gallons", "gallons_from_liters"),
    parameters={"value": VALUE},
    descriptions=("convert liters to gallons", "change liters into gallons", "liters in gallons"),
    asks=("{value} in gallons", "{value} converted to gallons"),
    orders=("convert {value} to gallons", "change {value} into gallons", "turn {value} into gallons"),
    unseen=True,
)
def liters_to_gallons(value: Liters) -> Gallons:
    """Convert liters to gallons, to two decimals."""
    return round(value * 0.264172, 2)


@tool(
    names=("meters_to_feet", "convert_meters_to_feet", "feet_from_meters"),
    parameters={"value": VALUE},
    descriptions=("convert meters to feet", "change meters into feet", "meters in feet"),
    asks=("{value} in feet", "{value} converted to feet"),
    orders=("convert {value} to feet", "change {value} into feet", "turn {value} into feet"),
    unseen=True,
)
def meters_to_feet(value: Meters) -> Feet:
    """Convert meters to feet, to two decimals."""
    return round(value * 3.28084, 2)
