"""CAHL: capability-aligned hierarchical learning for tool-using LLMs, on PyTorch Lightning.

Paper: arXiv 2606.09371.
"""

from cahl_pl.moved import find_moved_modules
from cahl_pl.startup.library_warnings import silence_kernel_notice
from cahl_pl.startup.threads import spin_briefly

__version__ = "0.2.0"

# Called here, since programs import torch and peft (which imports bitsandbytes) right after anything of this package.
spin_briefly()
silence_kernel_notice()
find_moved_modules()
