"""Verifiable rewards: R_h of the planner and R_l of the executor."""

from .base import BaseExecutorReward, BasePlannerReward
from .executor import ExecutorReward, Target, assign_gold
from .planner import PlannerReward

__all__ = [
    "BaseExecutorReward",
    "BasePlannerReward",
    "ExecutorReward",
    "PlannerReward",
    "Target",
    "assign_gold",
]
