"""CAHL: capability-aligned hierarchical learning for tool-using LLMs, on PyTorch Lightning.

Paper: arXiv 2606.09371.
"""

from cahl_pl.quiet import silence_kernel_notice

__version__ = "0.1.0"

silence_kernel_notice()  # here: bitsandbytes is imported by peft, which nearly all modules of this package import
