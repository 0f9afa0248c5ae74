"""Travel: ways between cities, what they cost, and rooms."""

from __future__ import annotations

from cahl_pl.toolworld.kinds import COUNT, HOURS, KM, MONEY, Cabin, City, Count, Hours, Km, Money, Quantity
from cahl_pl.toolworld.registry import State, ToolError, lookup, tool

ORIGIN = ("origin", "start", "from_city")
DESTINATION = ("destination", "end", "to_city")


@tool(
    names=("get_distance", "find_distance", "distance_between"),
    parameters={"origin": ORIGIN, "destination": DESTINATION},
    descriptions=("distance in km", "distance between cities in km", "look up a distance in km"),
    asks=(
        "the distance between {origin} and {destination}",
        "the distance from {origin} to {destination}",
        "the distance to {destination} from {origin}",
    ),
)
def distance(state: State, origin: City, destination: City) -> Km:
    """Distance between two cities, in km."""
    return float(lookup(state, "distance", _way(origin, destination), KM))


@tool(
    names=("get_travel_time", "find_travel_time", "travel_time_between"),
    parameters={"origin": ORIGIN, "destination": DESTINATION},
    descriptions=("travel time in hours", "time between cities in hours", "look up travel time in hours"),
    asks=(
        "the travel time between {origin} and {destination}",
        "the travel time from {origin} to {destination}",
        "the travel time to {destination} from {origin}",
    ),
)
def travel_time(state: State, origin: City, destination: City) -> Hours:
    """Travel time between two cities, in hours."""
    return float(lookup(state, "travel time", _way(origin, destination), HOURS))


@tool(
    names=("get_flight_price", "flight_price", "price_of_flight"),
    parameters={"origin": ORIGIN, "destination": DESTINATION, "cabin": ("cabin", "class_name", "seat")},
    descriptions=("price of a flight", "look up a flight price", "what a flight costs"),
    asks=(
        "the price of a {cabin} class flight from {origin} to {destination}",
        "the {cabin} class flight price from {origin} to {destination}",
        "the price of a flight to {destination} from {origin} in {cabin} class",
    ),
)
def flight_price(state: State, origin: City, destination: City, cabin: Cabin) -> Money:
    """Price of a flight."""
    return int(lookup(state, f"{cabin} flight", _way(origin, destination), MONEY))


@tool(
    names=("book_hotel", "reserve_hotel", "hotel_booking"),
    parameters={"city": ("city", "place", "town"), "nights": ("nights", "days", "stay")},
    descriptions=("book a hotel in a city", "book a hotel", "reserve a hotel"),
    orders=(
        "book a hotel in {city} for {nights} nights",
        "book a hotel for {nights} nights in {city}",
        "reserve a hotel in {city} for {nights} nights",
        "reserve a hotel for {nights} nights in {city}",
    ),
)
def book_hotel(state: State, city: City, nights: Quantity) -> Count:
    """Book hotel nights in a city; the answer is the number of nights left."""
    left = int(lookup(state, "hotel", city, COUNT)) - nights
    if nights <= 0:
        raise ToolError("nights must be positive")
    if left < 0:
        raise ToolError("hotel is full")
    state["hotel"][city] = left
    return left


@tool(
    names=("get_train_price", "train_price", "price_of_train"),
    parameters={"origin": ORIGIN, "destination": DESTINATION},
    descriptions=("price of a train", "look up a train price", "what a train costs"),
    asks=(
        "the price of a train from {origin} to {destination}",
        "the train price from {origin} to {destination}",
        "the price of a train to {destination} from {origin}",
    ),
)
def train_price(state: State, origin: City, destination: City) -> Money:
    """Price of a train."""
    return int(lookup(state, "train", _way(origin, destination), MONEY))


@tool(
    names=("get_bus_price", "bus_price", "price_of_bus"),
    parameters={"origin": ORIGIN, "destination": DESTINATION},
    descriptions=("price of a bus", "look up a bus price", "what a bus costs"),
    asks=(
        "the price of a bus from {origin} to {destination}",
        "the bus price from {origin} to {destination}",
        "the price of a bus to {destination} from {origin}",
    ),
)
def bus_price(state: State, origin: City, destination: City) -> Money:
    """Price of a bus."""
    return int(lookup(state, "bus", _way(origin, destination), MONEY))


@tool(
    names=("get_ferry_price", "ferry_price", "price_of_ferry"),
    parameters={"origin": ORIGIN, "destination": DESTINATION},
    descriptions=("price of a ferry", "look up a ferry price", "what a ferry costs"),
    asks=(
        "the price of a ferry from {origin} to {destination}",
        "the ferry price from {origin} to {destination}",
        "the price of a ferry to {destination} from {origin}",
    ),
    unseen=True,
)
def ferry_price(state: State, origin: City, destination: City) -> Money:
    """Price of a ferry."""
    return int(lookup(state, "ferry", _way(origin, destination), MONEY))


def _way(origin: str, destination: str) -> str:
    return f"{origin}-{destination}"
