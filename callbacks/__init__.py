"""Lightning callbacks that watch a CAHL run. Import them from `cahl_pl.callbacks`."""

from __future__ import annotations

from cahl_pl.callbacks.before_after import BeforeAfter
from cahl_pl.callbacks.checkpoints import Checkpoints
from cahl_pl.callbacks.convergence import Convergence
from cahl_pl.callbacks.dashboard import Dashboard
from cahl_pl.callbacks.execution_feedback import ExecutionFeedback
from cahl_pl.callbacks.memory import FourBitMemory
from cahl_pl.callbacks.predictions import PredictionWriter
from cahl_pl.callbacks.progress import ProgressLines
from cahl_pl.callbacks.start_summary import StartSummary
from cahl_pl.callbacks.stop_if_nothing_learned import StopIfNothingLearned
from cahl_pl.callbacks.token_budget import TokenBudget

__all__ = [
    "BeforeAfter",
    "Checkpoints",
    "Convergence",
    "Dashboard",
    "ExecutionFeedback",
    "FourBitMemory",
    "PredictionWriter",
    "ProgressLines",
    "StartSummary",
    "StopIfNothingLearned",
    "TokenBudget",
]
