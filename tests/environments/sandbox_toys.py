"""A toolkit for a sandbox: tools that behave, break, hang and pry."""

import os
import sys
import time

LEAK = []


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no")

    __repr__ = __str__


def toolkit(state):
    if "fail" in state:
        raise ValueError("no such account")
    if "hang" in state:
        time.sleep(60)

    def deposit(amount):
        state["balance"] += amount
        return state["balance"]

    def fail(message):
        raise ValueError(message)

    def grow(items):
        items.append(0)
        return items

    def odd(kind):
        if kind == "unprintable error":
            raise Unprintable
        if kind == "recursion":
            return odd(kind)
        cycle = []
        cycle.append(cycle)
        return {
            "nan": float("nan"),
            "cycle": cycle,
            "keys": {(1, 2): 3},
            "unprintable": Unprintable(),
            "none": None,
            "surrogate": "\ud800",
            "pair": "\ud83d\ude00",
            "set": frozenset([1]),
            "long": "x" * 100,
            "emoji": "\U0001f600" * 100,
            "quotes": '"' * 59,
        }[kind]

    def break_down(how):
        if how == "hang":
            while True:
                pass
        if how == "exit":
            os._exit(3)
        if how == "crash":
            import ctypes

            ctypes.string_at(0)
        if how == "leak files":
            while True:
                LEAK.append(os.open(os.devnull, os.O_RDONLY))
        if how == "nest":
            for _ in range(1100):
                os.mkdir("d")
                os.chdir("d")
        if how == "leak memory":
            LEAK.append(bytearray(100 << 20))
        time.sleep(0.3)
        return "done"

    def file(text):
        with open("notes.txt", "a+") as notes:
            notes.write(text)
            notes.seek(0)
            return notes.read()

    def look(at):
        if at == "files":
            return sorted(os.listdir("."))
        if at == "process":
            return [os.getpid(), os.getpgid(0), os.getcwd()]
        if at == "torch":
            return "torch" in sys.modules
        return sorted(os.environ)

    tools = (deposit, fail, grow, odd, break_down, file, look)
    return {tool.__name__: tool for tool in tools}
