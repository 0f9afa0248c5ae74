"""The tokens that end a completion."""

from __future__ import annotations

from cahl_pl.policy.policy import Policy


def stop_ids(policy: Policy) -> set[int]:
    """Return the ids that end a completion: the template's end of turn, and those of the tokenizer and generation settings.

    A base model's tokenizer and settings may know only the end of a document, not that of its own template's turns.
    """
    configured = policy.causal_lm.generation_config.eos_token_id
    ids = {
        policy.end_of_turn,
        policy.tokenizer.eos_token_id,
        *(configured if isinstance(configured, list) else [configured]),
    }
    return {i for i in ids if i is not None}
