"""The frozen base and its two adapters: load, pack, run, score."""

from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.policy import Policy

__all__ = ["Policy", "PolicyConfig"]
