"""GGUF files as base models: de-quantised once, kept as safetensors beside the user's caches.

transformers can read a GGUF file but not quantise it again on the way, and its de-quantised model refuses to be saved
while it carries the marks of the file. So it is converted once; the copy then loads like any other model, in NF4 too.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.weights import check_weights


def safetensors_of(folder: Path, gguf_file: str) -> Path:
    """Return the folder of the converted model; convert it if that has not been done.

    Args:
        folder: the folder with the GGUF file.
        gguf_file: its name.

    Returns:
        A folder with safetensors weights (bfloat16) and the tokenizer, below `$XDG_CACHE_HOME/cahl_pl` (default
        `~/.cache/cahl_pl`), named by the file's path, size and time of change.

    Raises:
        PolicyError: the file does not exist or lacks weights, or the package `gguf` that reads it is not installed.
    """
    from cahl_pl.errors import PolicyError

    source = folder / gguf_file
    if not source.is_file():
        raise PolicyError(
            f"policy.gguf_file: {str(source)!r} does not exist; policy.model must be the folder of the file"
        )
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise PolicyError("reading a GGUF file needs the package gguf: pip install gguf") from None
    stat = source.stat()
    key = hashlib.sha256(f"{source.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "cahl_pl"
    target = cache / f"{source.stem}-{key}"
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=cache))  # written aside and renamed: a killed conversion leaves no half model
        try:
            _convert(folder, gguf_file, aside)
            aside.rename(target)
        except OSError:
            if not target.is_dir():  # another process may have finished first
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return target


def _convert(folder: Path, gguf_file: str, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=gguf_file,
        dtype=torch.bfloat16,
        ignore_mismatched_sizes=True,  # `check_weights` names them
        output_loading_info=True,
    )
    model, found = loaded
    check_weights(model, found, PolicyConfig(model=str(folder / gguf_file)))  # the copy will lack nothing
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
