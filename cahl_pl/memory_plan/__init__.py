"""The memory that a run takes on one device, from its configuration alone: shapes in, bytes out.

It counts the memory that PyTorch holds at the worst moment of each stage. `tools/memory/check_memory_plan.py` compares
the formulas with measured peaks.
"""

from cahl_pl.memory_plan.fitting import largest_micro_batch, made_to_fit, overrides, peak, worst_stage
from cahl_pl.memory_plan.runs import plan_of
from cahl_pl.memory_plan.shapes import ModelShape, Settings, references_of, settings_of, shape_of
from cahl_pl.memory_plan.stages import GIB, Stage, sampling_moments, stages, update_moments

__all__ = [
    "GIB",
    "ModelShape",
    "Settings",
    "Stage",
    "largest_micro_batch",
    "made_to_fit",
    "overrides",
    "peak",
    "plan_of",
    "references_of",
    "sampling_moments",
    "settings_of",
    "shape_of",
    "stages",
    "update_moments",
    "worst_stage",
]
