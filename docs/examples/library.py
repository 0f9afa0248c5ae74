"""Three tools of a small library."""


def get_shelf(book: str, state: dict) -> int:
    """Look up the shelf of a book.

    Args:
        book: Title of the book.
        state: The books by title; the model does not see it.
    """
    return _known(book, state)["shelf"]


def get_reader(book: str, state: dict) -> str:
    """Look up the reader of a book.

    Args:
        book: Title of the book.
        state: The books by title; the model does not see it.
    """
    reader = _known(book, state)["reader"]
    if reader is None:
        raise ValueError(f"{book} is not lent")
    return reader


def lend_book(book: str, name: str, state: dict) -> str:
    """Lend a book to a person.

    Args:
        book: Title of the book.
        name: Name of the person.
        state: The books by title; the model does not see it.
    """
    if _known(book, state)["reader"]:
        raise ValueError(f"{book} is lent already")
    state[book]["reader"] = name
    return "lent"


def _known(book: str, state: dict) -> dict:
    if book not in state:
        raise ValueError(f"no book named {book}")
    return state[book]
