"""Contacts: one fact about a person."""

from __future__ import annotations

from cahl_pl.toolworld.kinds import (
    ADDRESS,
    CITY,
    DATE,
    EMAIL,
    JOB,
    NICKNAME,
    PHONE,
    Address,
    City,
    Date,
    Email,
    Job,
    Nickname,
    Person,
    Phone,
)
from cahl_pl.toolworld.registry import State, lookup, tool

NAME = ("name", "person", "contact")


@tool(
    names=("get_email", "find_email", "email_of"),
    parameters={"name": NAME},
    descriptions=("email of a person", "look up an email", "the email of a contact"),
    asks=("the email of {name}", "{name}'s email", "the email address of {name}", "the email for {name}"),
)
def email(state: State, name: Person) -> Email:
    """Email of a person."""
    return str(lookup(state, "email", name, EMAIL))


@tool(
    names=("get_phone", "find_phone", "phone_of"),
    parameters={"name": NAME},
    descriptions=("phone number of a person", "look up a phone number", "the phone of a contact"),
    asks=("the phone of {name}", "{name}'s phone number", "the phone number of {name}", "{name}'s phone"),
)
def phone(state: State, name: Person) -> Phone:
    """Phone number of a person."""
    return str(lookup(state, "phone", name, PHONE))


@tool(
    names=("get_birthday", "find_birthday", "birthday_of"),
    parameters={"name": NAME},
    descriptions=("birthday of a person", "look up a birthday", "the birthday of a contact"),
    asks=("the birthday of {name}", "{name}'s birthday", "the birthday for {name}"),
)
def birthday(state: State, name: Person) -> Date:
    """Birthday of a person."""
    return str(lookup(state, "birthday", name, DATE))


@tool(
    names=("get_job", "find_job", "job_of"),
    parameters={"name": NAME},
    descriptions=("job of a person", "look up a job", "the job of a contact"),
    asks=("the job of {name}", "{name}'s job", "the job for {name}"),
)
def job(state: State, name: Person) -> Job:
    """Job of a person."""
    return str(lookup(state, "job", name, JOB))


@tool(
    names=("get_city", "find_city", "city_of"),
    parameters={"name": NAME},
    descriptions=("city of a person", "look up a home city", "the city of a contact"),
    asks=("the city of {name}", "{name}'s city", "the home city of {name}", "{name}'s home city"),
)
def city(state: State, name: Person) -> City:
    """City where a person lives."""
    return str(lookup(state, "city", name, CITY))


@tool(
    names=("get_address", "find_address", "address_of"),
    parameters={"name": NAME},
    descriptions=("address of a person", "look up an address", "the address of a contact"),
    asks=("the address of {name}", "{name}'s address", "the address for {name}"),
    unseen=True,
    broad=True,
)
def address(state: State, name: Person) -> Address:
    """Street and number where a person lives."""
    return str(lookup(state, "address", name, ADDRESS))


@tool(
    names=("get_nickname", "find_nickname", "nickname_of"),
    parameters={"name": NAME},
    descriptions=("nickname of a person", "look up a nickname", "the nickname of a contact"),
    asks=("the nickname of {name}", "{name}'s nickname", "the nickname for {name}"),
    unseen=True,
)
def nickname(state: State, name: Person) -> Nickname:
    """Nickname of a person."""
    return str(lookup(state, "nickname", name, NICKNAME))
