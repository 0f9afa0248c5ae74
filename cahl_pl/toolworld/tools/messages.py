"""Messages: one tool for each way of sending words to a person."""

from __future__ import annotations

from cahl_pl.toolworld.kinds import ADDRESS, NICKNAME, PHONE, PLACE, Message, Person, Status
from cahl_pl.toolworld.registry import State, lookup, tool

TO = ("to", "recipient", "receiver")
MESSAGE_NAMES = ("message", "content", "body")


@tool(
    names=("send_text", "write_text", "text_to"),
    parameters={"to": TO, "message": MESSAGE_NAMES},
    descriptions=("send a text to a person", "send a text", "write someone a text"),
    orders=(
        "send a text with {message} to {to}",
        "send a text to {to} with {message}",
        "send {message} as a text to {to}",
        "text {message} to {to}",
    ),
)
def text(state: State, to: Person, message: Message) -> Status:
    """Send a text to a person."""
    lookup(state, "phone", to, PHONE)
    return _sent(state, "text", to, message)


@tool(
    names=("send_letter", "write_letter", "letter_to"),
    parameters={"to": TO, "message": MESSAGE_NAMES},
    descriptions=("send a letter to a person", "send a letter", "write someone a letter"),
    orders=(
        "send a letter with {message} to {to}",
        "send a letter to {to} with {message}",
        "send {message} as a letter to {to}",
        "write a letter to {to} with {message}",
    ),
)
def letter(state: State, to: Person, message: Message) -> Status:
    """Send a letter to a person."""
    lookup(state, "address", to, ADDRESS)
    return _sent(state, "letter", to, message)


@tool(
    names=("send_note", "write_note", "note_to"),
    parameters={"to": TO, "message": MESSAGE_NAMES},
    descriptions=("send a note to a person", "send a note", "write someone a note"),
    orders=(
        "send a note with {message} to {to}",
        "send a note to {to} with {message}",
        "send {message} as a note to {to}",
        "write a note to {to} with {message}",
    ),
)
def note(state: State, to: Person, message: Message) -> Status:
    """Leave a note on a person's desk."""
    lookup(state, "desk", to, PLACE)
    return _sent(state, "note", to, message)


@tool(
    names=("send_page", "write_page", "page_to"),
    parameters={"to": TO, "message": MESSAGE_NAMES},
    descriptions=("send a page to a person", "send a page", "write someone a page"),
    orders=(
        "send a page with {message} to {to}",
        "send a page to {to} with {message}",
        "send {message} as a page to {to}",
        "page {message} to {to}",
    ),
)
def page(state: State, to: Person, message: Message) -> Status:
    """Send words to a person's pager."""
    lookup(state, "pager", to, NICKNAME)
    return _sent(state, "page", to, message)


@tool(
    names=("send_fax", "write_fax", "fax_to"),
    parameters={"to": TO, "message": MESSAGE_NAMES},
    descriptions=("send a fax to a person", "send a fax", "write someone a fax"),
    orders=(
        "send a fax with {message} to {to}",
        "send a fax to {to} with {message}",
        "send {message} as a fax to {to}",
        "fax {message} to {to}",
    ),
    unseen=True,
)
def fax(state: State, to: Person, message: Message) -> Status:
    """Send a fax to a person."""
    lookup(state, "fax", to, PHONE)
    return _sent(state, "fax", to, message)


@tool(
    names=("send_postcard", "write_postcard", "postcard_to"),
    parameters={"to": TO, "message": MESSAGE_NAMES},
    descriptions=("send a postcard to a person", "send a postcard", "write someone a postcard"),
    orders=(
        "send a postcard with {message} to {to}",
        "send a postcard to {to} with {message}",
        "send {message} as a postcard to {to}",
        "write a postcard to {to} with {message}",
    ),
    unseen=True,
)
def postcard(state: State, to: Person, message: Message) -> Status:
    """Send a postcard to a person."""
    lookup(state, "address", to, ADDRESS)
    return _sent(state, "postcard", to, message)


def _sent(state: State, kind: str, to: str, message: str) -> Status:
    """Leave a trace of what was sent, by which it can be checked."""
    state.setdefault("sent", {})[f"{kind} to {to}"] = message
    return "sent"
