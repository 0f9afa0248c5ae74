"""Numbers: arithmetic, which needs no state."""

from __future__ import annotations

from cahl_pl.toolworld.kinds import Integer, Number
from cahl_pl.toolworld.registry import ToolError, tool

FIRST = ("a", "x", "first")
SECOND = ("b", "y", "second")


@tool(
    names=("add", "sum_of", "add_numbers"),
    parameters={"a": FIRST, "b": SECOND},
    descriptions=("sum of two numbers", "add two numbers", "the sum of numbers"),
    asks=("the sum of {a} and {b}", "{a} plus {b}"),
    orders=("add {a} and {b}", "add up {a} and {b}", "sum {a} and {b}"),
)
def add(a: Integer, b: Integer) -> Integer:
    """Sum of two integers."""
    return a + b


@tool(
    names=("multiply", "product_of", "multiply_numbers"),
    parameters={"a": FIRST, "b": SECOND},
    descriptions=("product of two numbers", "multiply two numbers", "the product of numbers"),
    asks=("the product of {a} and {b}", "{a} times {b}"),
    orders=("multiply {a} by {b}", "multiply {a} and {b}"),
)
def multiply(a: Integer, b: Integer) -> Integer:
    """Product of two integers."""
    return a * b


@tool(
    names=("subtract", "difference_of", "subtract_numbers"),
    parameters={"whole": ("whole", "start", "total"), "part": ("part", "less", "minus")},
    descriptions=("a whole minus a part", "subtract a number", "difference of two numbers"),
    asks=("{whole} minus {part}", "the difference of {whole} and {part}"),
    orders=("subtract {part} from {whole}", "take {part} away from {whole}"),
)
def subtract(whole: Integer, part: Integer) -> Integer:
    """Difference of two integers."""
    return whole - part


@tool(
    names=("larger_of", "get_larger", "pick_larger"),
    parameters={"a": FIRST, "b": SECOND},
    descriptions=("larger of two numbers", "pick the larger number", "the larger number"),
    asks=("the larger of {a} and {b}", "the larger number of {a} and {b}"),
    orders=("pick the larger of {a} and {b}", "pick the larger number of {a} and {b}"),
)
def larger(a: Integer, b: Integer) -> Integer:
    """Larger of two integers."""
    return max(a, b)


@tool(
    names=("round_number", "round_to_whole", "rounded"),
    parameters={"value": ("value", "number", "x")},
    descriptions=("round to a whole number", "round a number", "the rounded number"),
    asks=("{value} rounded", "{value} rounded to a whole number"),
    orders=("round {value}", "round {value} to a whole number"),
)
def round_number(value: Number) -> Integer:
    """Nearest whole number."""
    return round(value)


@tool(
    names=("smaller_of", "get_smaller", "pick_smaller"),
    parameters={"a": FIRST, "b": SECOND},
    descriptions=("smaller of two numbers", "pick the smaller number", "the smaller number"),
    asks=("the smaller of {a} and {b}", "the smaller number of {a} and {b}"),
    orders=("pick the smaller of {a} and {b}", "pick the smaller number of {a} and {b}"),
    unseen=True,
)
def smaller(a: Integer, b: Integer) -> Integer:
    """Smaller of two integers."""
    return min(a, b)


@tool(
    names=("remainder_of", "get_remainder", "find_remainder"),
    parameters={"a": FIRST, "b": SECOND},
    descriptions=("remainder of two numbers", "find the remainder", "the remainder of numbers"),
    asks=("the remainder of {a} by {b}", "the remainder of {a} divided by {b}"),
    unseen=True,
)
def remainder(a: Integer, b: Integer) -> Integer:
    """Remainder of an integer division."""
    if b == 0:
        raise ToolError("division by zero")
    return a % b
