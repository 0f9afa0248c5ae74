"""Bank: accounts and the money on them."""

from __future__ import annotations

from cahl_pl.toolworld.kinds import ACCOUNT, MONEY, Account, Money, Person
from cahl_pl.toolworld.registry import State, ToolError, lookup, tool

ACCOUNT_NAMES = ("account", "account_id", "acct")
AMOUNT = ("amount", "money", "sum")


@tool(
    names=("get_balance", "check_balance", "balance_of"),
    parameters={"account": ACCOUNT_NAMES},
    descriptions=("balance of an account", "look up the balance", "the balance on an account"),
    asks=("the balance of {account}", "the balance on {account}", "the current balance of {account}"),
)
def balance(state: State, account: Account) -> Money:
    """Balance of an account."""
    return int(lookup(state, "balance", account, MONEY))


@tool(
    names=("get_account", "find_account", "account_of"),
    parameters={"name": ("name", "person", "owner")},
    descriptions=("account of a person", "look up an account", "the account of an owner"),
    asks=("{name}'s account", "the account of {name}", "the bank account of {name}"),
)
def account(state: State, name: Person) -> Account:
    """Account of a person."""
    return str(lookup(state, "account", name, ACCOUNT))


@tool(
    names=("deposit", "deposit_money", "make_deposit"),
    parameters={"account": ACCOUNT_NAMES, "amount": AMOUNT},
    descriptions=("deposit money into an account", "make a deposit", "deposit an amount"),
    orders=(
        "deposit {amount} into {account}",
        "deposit {amount} on {account}",
        "make a deposit of {amount} into {account}",
        "make a deposit into {account} of {amount}",
    ),
)
def deposit(state: State, account: Account, amount: Money) -> Money:
    """Deposit money into an account; the answer is its new balance."""
    if amount <= 0:
        raise ToolError("amount must be positive")
    total = int(lookup(state, "balance", account, MONEY)) + amount
    state["balance"][account] = total
    return total


@tool(
    names=("withdraw", "withdraw_money", "make_withdrawal"),
    parameters={"account": ACCOUNT_NAMES, "amount": AMOUNT},
    descriptions=("withdraw money from an account", "make a withdrawal", "withdraw an amount"),
    orders=(
        "withdraw {amount} from {account}",
        "make a withdrawal of {amount} from {account}",
        "make a withdrawal from {account} of {amount}",
        "from {account}, withdraw {amount}",
    ),
)
def withdraw(state: State, account: Account, amount: Money) -> Money:
    """Withdraw money from an account; the answer is its new balance."""
    if amount <= 0:
        raise ToolError("amount must be positive")
    total = int(lookup(state, "balance", account, MONEY)) - amount
    if total < 0:
        raise ToolError("balance too low")
    state["balance"][account] = total
    return total


@tool(
    names=("get_debt", "check_debt", "debt_of"),
    parameters={"account": ACCOUNT_NAMES},
    descriptions=("debt of an account", "look up the debt", "the debt on an account"),
    asks=("the debt of {account}", "the debt on {account}", "the current debt of {account}"),
    unseen=True,
)
def debt(state: State, account: Account) -> Money:
    """Debt of an account."""
    return int(lookup(state, "debt", account, MONEY))
