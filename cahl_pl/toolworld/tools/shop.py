"""Shop: items, and how many are left."""

from __future__ import annotations

from cahl_pl.toolworld.kinds import COUNT, KG, MONEY, Count, Item, Kg, Money, Quantity
from cahl_pl.toolworld.registry import State, ToolError, lookup, tool

ITEM_NAMES = ("item", "product", "article")
QUANTITY_NAMES = ("quantity", "count", "units")


@tool(
    names=("get_price", "check_price", "price_of"),
    parameters={"item": ITEM_NAMES},
    descriptions=("price of an item", "look up the price", "the price of a product"),
    asks=("the price of {item}", "the price for {item}", "the current price of {item}"),
)
def price(state: State, item: Item) -> Money:
    """Price of an item."""
    return int(lookup(state, "price", item, MONEY))


@tool(
    names=("get_stock", "check_stock", "stock_of"),
    parameters={"item": ITEM_NAMES},
    descriptions=("stock of an item", "look up the stock", "the stock of a product"),
    asks=("the stock of {item}", "the stock for {item}", "the current stock of {item}"),
)
def stock(state: State, item: Item) -> Count:
    """Number of units of an item in stock."""
    return int(lookup(state, "stock", item, COUNT))


@tool(
    names=("order_item", "place_order", "make_order"),
    parameters={"item": ITEM_NAMES, "quantity": QUANTITY_NAMES},
    descriptions=("order units of an item", "place an order", "order a product"),
    orders=(
        "order {quantity} units of {item}",
        "place an order for {quantity} units of {item}",
        "place an order of {item}, {quantity} units",
        "order {item}, {quantity} units",
    ),
)
def order(state: State, item: Item, quantity: Quantity) -> Count:
    """Order units of an item; the answer is the stock left."""
    left = int(lookup(state, "stock", item, COUNT)) - quantity
    if quantity <= 0:
        raise ToolError("quantity must be positive")
    if left < 0:
        raise ToolError("not enough stock")
    state["stock"][item] = left
    return left


@tool(
    names=("return_item", "send_back", "make_return"),
    parameters={"item": ITEM_NAMES, "quantity": QUANTITY_NAMES},
    descriptions=("return units of an item", "return a product", "return bought units"),
    orders=(
        "return {quantity} units of {item}",
        "make a return of {quantity} units of {item}",
        "return {item}, {quantity} units",
        "make a return of {item}, {quantity} units",
    ),
)
def give_back(state: State, item: Item, quantity: Quantity) -> Count:
    """Return units of an item; the answer is the new stock."""
    if quantity <= 0:
        raise ToolError("quantity must be positive")
    total = int(lookup(state, "stock", item, COUNT)) + quantity
    state["stock"][item] = total
    return total


@tool(
    names=("get_weight", "check_weight", "weight_of"),
    parameters={"item": ITEM_NAMES},
    descriptions=("weight in kg", "weight of an item in kg", "look up a weight in kg"),
    asks=("the weight of {item}", "the weight for {item}", "the current weight of {item}"),
)
def weight(state: State, item: Item) -> Kg:
    """Weight of an item, in kg."""
    return float(lookup(state, "weight", item, KG))


@tool(
    names=("get_discount", "check_discount", "discount_of"),
    parameters={"item": ITEM_NAMES},
    descriptions=("discount of an item", "look up the discount", "the discount of a product"),
    asks=("the discount of {item}", "the discount for {item}", "the current discount of {item}"),
    unseen=True,
)
def discount(state: State, item: Item) -> Money:
    """Discount of an item."""
    return int(lookup(state, "discount", item, MONEY))
