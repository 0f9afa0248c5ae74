"""Check of a base's files: the weights of the model that its `config.json` describes, all of them and no others."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from cahl_pl.errors import PolicyError
from cahl_pl.policy.bases import decoder_of
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.four_bit import quantised_otherwise

# Extra layers for multi-token prediction come after the last one, and transformers leaves them out
_GUESSES_AHEAD = re.compile(r"eh_proj|enorm|hnorm|shared_head")
# Tables that old versions of transformers saved: masks and frequencies, which are not weights
_NO_WEIGHT = re.compile(r"\.(attn|attention|self_attention)\.bias$|masked_bias$|inv_freq$")
_LAYER = re.compile(r"^(.*?\.)?(\d+)\.")


def check_weights(model: Any, found: Mapping[str, Any], config: PolicyConfig) -> None:
    """Compare the tensors that were read with those that the model has.

    Tensors that are left out, as layers of another task's head or of vision are, do not matter unless they lie in the
    decoder's layers. A buffer that is not in the files has the value that the model gives it.

    Args:
        model: the model as loaded.
        found: transformers' report on the loading (`output_loading_info`).
        config: the policy's configuration; without `check_base`, weights that the model has no place for are left out.

    Raises:
        PolicyError: weights are missing, and would be random; they have other shapes; or there are too many.
    """
    name = f"the weights of {config.model!r} are not those of the model that its config.json describes"
    if mismatched := sorted([*found["mismatched_keys"], *quantised_otherwise(model)]):
        key, file, wanted = mismatched[0]
        raise PolicyError(
            f"{name}: {key} is {_size(file)} in the files and {_size(wanted)} by config.json{_more(mismatched, 1)}; take "
            "config.json and weights from the same model"
        )
    if missing := sorted(_used(model).intersection(found["missing_keys"])):
        raise PolicyError(
            f"{name}: {_some(missing)} {'is' if len(missing) == 1 else 'are'} not in the files, and would start from random "
            "numbers; take config.json and weights from the same causal language model"
        )
    if config.check_base and (left_out := sorted(_beyond(model, found["unexpected_keys"]))):
        raise PolicyError(
            f"{name}: it has no place for {_some(left_out)}; take config.json and weights from the same model, or set "
            "model.policy.check_base to false to leave them out"
        )


def _used(model: Any) -> set[str]:
    """Return the names of the parameters that text passes through, with all names of each."""
    used = {id(p) for p in decoder_of(model).parameters()}
    output = model.get_output_embeddings()
    used.update(id(p) for p in (output.parameters() if output is not None else ()))
    return {name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in used}


def _beyond(model: Any, unexpected: Collection[str]) -> set[str]:
    """Return tensors in layers of the decoder, or after its last one, that would contribute to its computation."""
    decoder = decoder_of(model)
    within = next(f"{name}." if name else "" for name, module in model.named_modules() if module is decoder)
    lists = {name for name, module in decoder.named_modules() if isinstance(module, nn.ModuleList)}
    layers: dict[str, set[str]] = {}
    for key in unexpected:
        inner = key.removeprefix(within)
        found = _LAYER.match(inner)
        if found and (found[1] or "").removesuffix(".") in lists and not _NO_WEIGHT.search(key):
            layers.setdefault(found[0], set()).add(key)
    guessing = {layer for layer, keys in layers.items() if any(map(_GUESSES_AHEAD.search, keys))}
    return {
        key
        for layer in layers.keys() - guessing
        for key in layers[layer]
        if key.endswith((".weight", ".bias")) or key.rpartition(".")[2].endswith("_proj")
    }


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + _more(names, 3)


def _more(names: list[Any], shown: int) -> str:
    return f" and {len(names) - shown} more" if len(names) > shown else ""


def _size(shape: Collection[int]) -> str:
    return " x ".join(map(str, shape))
