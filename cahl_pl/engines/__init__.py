"""Who samples tokens."""

from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.engines.server import ServerEngine
from cahl_pl.engines.transformers import TransformersEngine

__all__ = ["Completion", "Engine", "Sampling", "ServerEngine", "TransformersEngine"]
