"""Tokenizers of bytes with the special tokens that a test gives them."""

from __future__ import annotations


def tokenizer_with(special, plain=(), bos=None, adds_bos=False, **options):
    """One whose first special token ends sequences; `bos` begins them, of itself if `adds_bos`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*special, *plain, *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    tokenizer.add_tokens(list(plain))
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    own = {"eos_token": special[0], "pad_token": special[0], **({"bos_token": bos} if bos else {})}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **own, **options)
