"""Verifiable rewards: R_h of the planner, R_l of the executor, and rewards of an executor without a planner."""

from cahl_pl.rewards.base import BaseExecutorReward, BasePlannerReward, BaseTurnReward
from cahl_pl.rewards.executor import ExecutorReward
from cahl_pl.rewards.outcome import OutcomeExecutorReward, OutcomePlannerReward
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.rewards.targets import Target, assign_gold
from cahl_pl.rewards.toolrl import ToolRLReward
from cahl_pl.rewards.turn import ToolN1Reward, TurnReward

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
