"""CAHL: capability-aligned hierarchical learning for tool-using LLMs, on PyTorch Lightning.

Paper: arXiv 2606.09371.
"""

from cahl_pl.threads import spin_briefly

__version__ = "0.1.0"

spin_briefly()  # here, since programs import torch as soon as they have imported anything else of this package
