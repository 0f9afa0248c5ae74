"""Weather: what is measured in a city now."""

from __future__ import annotations

from cahl_pl.toolworld.kinds import CELSIUS, PERCENT, SPEED, WEATHER, Celsius, City, Percent, Speed, Weather
from cahl_pl.toolworld.registry import State, lookup, tool

CITY_NAMES = ("city", "place", "town")


@tool(
    names=("get_weather", "check_weather", "weather_in"),
    parameters={"city": CITY_NAMES},
    descriptions=("weather in a city", "look up the weather", "the weather of a town"),
    asks=("the weather in {city}", "the weather for {city}", "the current weather in {city}"),
    broad=True,
)
def weather(state: State, city: City) -> Weather:
    """Weather in a city, in one word."""
    return str(lookup(state, "weather", city, WEATHER))


@tool(
    names=("get_temperature", "check_temperature", "temperature_in"),
    parameters={"city": CITY_NAMES},
    descriptions=("temperature in celsius", "temperature of a city in celsius", "the celsius temperature"),
    asks=("the temperature in {city}", "the temperature for {city}", "the current temperature in {city}"),
)
def temperature(state: State, city: City) -> Celsius:
    """Temperature in a city, in degrees Celsius."""
    return float(lookup(state, "temperature", city, CELSIUS))


@tool(
    names=("get_humidity", "check_humidity", "humidity_in"),
    parameters={"city": CITY_NAMES},
    descriptions=("humidity in a city", "look up the humidity", "the humidity of a town"),
    asks=("the humidity in {city}", "the humidity for {city}", "the current humidity in {city}"),
)
def humidity(state: State, city: City) -> Percent:
    """Humidity in a city, in percent."""
    return int(lookup(state, "humidity", city, PERCENT))


@tool(
    names=("get_wind", "check_wind", "wind_in"),
    parameters={"city": CITY_NAMES},
    descriptions=("wind in a city", "look up the wind", "the wind of a town"),
    asks=("the wind in {city}", "the wind for {city}", "the current wind in {city}"),
    unseen=True,
)
def wind(state: State, city: City) -> Speed:
    """Speed of the wind in a city, in km/h."""
    return int(lookup(state, "wind", city, SPEED))
