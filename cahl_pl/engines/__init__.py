"""Engines that sample tokens."""

from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.engines.local import TransformersEngine
from cahl_pl.engines.server import ServerEngine

__all__ = ["Completion", "Engine", "Sampling", "ServerEngine", "TransformersEngine"]
