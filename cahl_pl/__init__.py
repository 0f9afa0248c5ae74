"""CAHL: capability-aligned hierarchical learning for tool-using LLMs, on PyTorch Lightning.

Paper: arXiv 2606.09371.
"""

__version__ = "0.1.0"
