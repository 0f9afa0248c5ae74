"""What a model may write, as grammars in Lark's notation as llguidance reads it: here, and on a vLLM server."""

from cahl_pl.grammars.outputs import Grammars

__all__ = ["Grammars"]
