"""Grammars of model outputs, in llguidance's variant of Lark: for use here, and on a vLLM server."""

from cahl_pl.grammars.outputs import Grammars

__all__ = ["Grammars"]
