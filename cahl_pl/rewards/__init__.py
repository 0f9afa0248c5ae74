"""Verifiable rewards: R_h of the planner, R_l of the executor, and those of an executor without a planner."""

from .base import BaseExecutorReward, BasePlannerReward, BaseTurnReward
from .executor import ExecutorReward, Target, assign_gold
from .outcome import OutcomeExecutorReward, OutcomePlannerReward
from .planner import PlannerReward
from .toolrl import ToolRLReward
from .turn import ToolN1Reward, TurnReward

__all__ = [
    "BaseExecutorReward",
    "BasePlannerReward",
    "BaseTurnReward",
    "ExecutorReward",
    "OutcomeExecutorReward",
    "OutcomePlannerReward",
    "PlannerReward",
    "Target",
    "ToolN1Reward",
    "ToolRLReward",
    "TurnReward",
    "assign_gold",
]
