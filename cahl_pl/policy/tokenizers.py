"""A base's tokenizer: loaded as its folder says, given end and padding, and checked against the base's embeddings."""

from __future__ import annotations

import contextlib
from typing import Any

from cahl_pl.errors import PolicyError
from cahl_pl.policy.config import PolicyConfig


def tokenizer_of(folder: str, config: PolicyConfig) -> Any:
    """Return the tokenizer in a folder or at a hub id; raises any error of transformers."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    kwargs: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    # For some model types (Qwen2 among them) AutoTokenizer builds the class of that type whatever the folder says, and
    # that class replaces the pre-tokenizer of tokenizer.json: the model then reads ids that it was never trained on.
    said = get_tokenizer_config(folder, **kwargs).get("tokenizer_class")
    generic = said in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(folder, **kwargs)


def end_and_pad(tokenizer: Any, folder: str, config: PolicyConfig) -> None:
    """Add the end of sequence and the padding that a tokenizer lacks: those of the model.

    Raises:
        PolicyError: neither of them names an end.
    """
    if tokenizer.eos_token_id is None:
        configured = _configured_end(folder)
        ids = configured if isinstance(configured, list) else [configured]
        if not ids or ids[0] is None:
            raise PolicyError(
                f"the tokenizer of {config.model!r} has no end-of-sequence token, so that no output would ever end: name the "
                "one that ends a turn as eos_token in its tokenizer_config.json"
            )
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ids[0])
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def _configured_end(folder: str) -> Any:
    """Return the end of sequence that the model's files name; not its class's default, which ignores the tokenizer."""
    from transformers import GenerationConfig, PretrainedConfig

    with contextlib.suppress(Exception):  # there may be no generation_config.json, or an unreadable one
        if (named := GenerationConfig.from_pretrained(folder).eos_token_id) is not None:
            return named
    said, _ = PretrainedConfig.get_config_dict(folder)
    return said.get("eos_token_id", (said.get("text_config") or {}).get("eos_token_id"))


def check_vocabulary(tokenizer: Any, config: PolicyConfig, base_config: Any) -> None:
    """Check that the base has an embedding of every token that a prompt may contain.

    Special tokens that neither the chat template nor the tokenizer itself writes may lack one, such as the image token of
    Gemma 3's text models.

    Raises:
        PolicyError: it has fewer embeddings.
    """
    rows = getattr(base_config.get_text_config(), "vocab_size", None)
    if rows is None:
        return
    template = str(getattr(tokenizer, "chat_template", None) or "")
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special -= {tokenizer.eos_token_id, tokenizer.bos_token_id}
    beyond = {
        i: token for token, i in tokenizer.get_vocab().items() if i >= rows and (i not in special or token in template)
    }
    if beyond:
        last = max(beyond)
        raise PolicyError(
            f"the tokenizer of {config.model!r} writes tokens up to {last} ({beyond[last]!r}), but its config.json knows "
            f"{rows:,} (vocab_size), so that they have no embeddings: take the tokenizer that the model was trained with, or "
            "resize the model's embeddings and save it"
        )
