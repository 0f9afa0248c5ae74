"""Bytes of each part of a run, one formula per part.

They are those of a decoder with a gated MLP and root mean square norms (Qwen2, Llama, Mistral, SmolLM2) as transformers and
PEFT run it; other layers are treated as such.
"""

from __future__ import annotations

from cahl_pl.memory_plan.shapes import ModelShape, Settings
from cahl_pl.policy.constraint import ROWS_AT_A_TIME
from cahl_pl.policy.logprobs import LOGITS_AT_A_TIME
from cahl_pl.policy.masks import BLOCK

FLOAT32 = 4
"""Bytes of a number in adapters' weights, norms and logits, and in adapters' outputs unless in the base's dtype."""


BLOCK_BYTES = 96
"""Bytes per block of FlexAttention's mask: four tables in int32, and their sources, four in int64 and booleans."""


def nf4_bytes(weights: int) -> int:
    """Return the bytes of a weight in NF4 with double quantisation (bitsandbytes, blocks of 64).

    Two weights per byte; one byte of scale per block; a float32 for every 256 scales; the offset of the scales; and the
    two tables in which weights (16 float32) and scales (256 float32) are looked up.
    """
    blocks = -(-weights // 64)
    return -(-weights // 2) + blocks + 4 * -(-blocks // 256) + 4 + 4 * 16 + 4 * 256


def base_bytes(shape: ModelShape, settings: Settings) -> int:
    """Return the bytes of the frozen base: embeddings, norms, biases and the output layer keep their dtype in either case.

    For a sharded base, those of this process's part, and of the most that is gathered at once: two layers, since the next
    one arrives while one is computed, or the output layer. Constants of a quantisation are not sharded.
    """
    e, nf4 = settings.dtype_bytes, settings.quantization == "nf4"

    def stored(linear: int, others: int) -> int:
        return (-(-linear // 2) if nf4 else linear * e) + others * e

    constants = sum(nf4_bytes(w) - -(-w // 2) for w in shape.linear) if nf4 else 0
    if settings.shards == 1:
        return stored(sum(shape.linear), shape.others) + constants
    part = -(-stored(sum(shape.linear), shape.others - shape.whole) // settings.shards)
    gathered = max(2 * stored(shape.layer_linear, shape.layer_others), shape.output * e)
    return part + shape.whole * e + constants + gathered


def dequantised_bytes(shape: ModelShape, settings: Settings) -> int:
    """Return the bytes of the largest weight in use: expanded in the dtype, and its scales in float32, twice."""
    if settings.quantization == "none":
        return 0
    largest = max(shape.linear)
    return largest * settings.dtype_bytes + 2 * FLOAT32 * -(-largest // 64)


def kv_bytes(shape: ModelShape, settings: Settings) -> int:
    """Return the bytes of a token's keys and values, over all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * settings.dtype_bytes


def saved_bytes(shape: ModelShape, settings: Settings) -> int:
    """Return the bytes per token that a decoder layer keeps for its backward pass, without attention masks and scores.

    The two norms compute in float32 and keep their input. Queries, repeated keys and values and the attention's output
    are kept; so are the MLP's gate, the gate's activation and the up projection. Every adapted layer keeps the input
    of its adapter in the dtype of adapters (a copy for each, unless activations already have it) and the output of A. All
    other weights are frozen: their inputs are not kept.
    """
    h, i, q, e, a = shape.hidden, shape.intermediate, shape.query, settings.dtype_bytes, settings.adapter_bytes
    norms = 2 * FLOAT32 * (h + 1)
    attention = 4 * e * q + FLOAT32 * shape.heads
    mlp = 3 * e * i
    inputs = a * shape.adapted_inputs
    if e == a:  # no copies: queries, keys and values share one input, as do gate and up; the output is kept above
        inputs = min(inputs, a * (2 * h + i))
    return norms + attention + mlp + inputs + a * shape.rank * shape.adapted


def mlp_bytes(shape: ModelShape, settings: Settings) -> int:
    """Return the bytes per token that a decoder layer takes at its worst in the MLP, run without gradient.

    The embeddings, the layer's input, the residual and the normed input; the activation of the gate; and of the up
    projection the base's output, and the adapter's, before and after scaling. An input whose dtype differs from that of
    adapters is also copied to theirs.
    """
    h, i, e, a = shape.hidden, shape.intermediate, settings.dtype_bytes, settings.adapter_bytes
    copy = 0 if e == a else a * h
    return 4 * e * h + copy + e * i + (e + 2 * a) * i


def attention_bytes(shape: ModelShape, settings: Settings) -> int:
    """Return the bytes per token that a decoder layer takes in the attention, run without gradient, without masks.

    The embeddings, the layer's input and the normed input; queries, keys and values, the latter two repeated too, and the
    output.
    """
    e = settings.dtype_bytes
    return 3 * e * shape.hidden + 4 * e * shape.query + 2 * e * shape.kv_heads * shape.head_dim


def backward_bytes(shape: ModelShape, settings: Settings) -> int:
    """Return the bytes per token that a layer's backward pass takes beyond what was saved, at its worst.

    Either at the end of the layer's forward pass (with checkpointing it has just been repeated): the MLP's product, and
    the down projection's output, the base's, and the adapter's before and after scaling; the residual and the normed input. Or
    in the backward pass of the MLP: gradients of the width of the MLP, of which the saved product makes room for one.
    """
    h, i, e, a = shape.hidden, shape.intermediate, settings.dtype_bytes, settings.adapter_bytes
    product = 0 if e == FLOAT32 else e * i
    forward = product + (e + 2 * a) * h + (0 if e == FLOAT32 else 2 * e * h)
    return max(forward, 2 * e * (i + h))


def rounded_bytes(shape: ModelShape, settings: Settings, layers: int) -> int:
    """Return the bytes of adapters' weights in the dtype that they are computed in, for `layers` layers, if it differs."""
    if settings.adapter_bytes == FLOAT32:
        return 0
    return -(-settings.adapter_bytes * shape.adapter * layers // shape.layers)


def mask_bytes(
    shape: ModelShape, settings: Settings, tokens: int, seen: int, layers: int = 0, attending: bool = False
) -> int:
    """Return the bytes of the attention masks [rows, 1, tokens, seen], and of scores not kept inside a kernel.

    Layers of one type share a mask. `sdpa` shares a boolean one; in each layer it makes a float one from it, which the
    backward pass needs, and before that its negation. `flex_attention` has tables of blocks. `eager` shares a float mask;
    each layer keeps the weights of all heads, in float32 and in the dtype, and makes three copies of the scores.

    Args:
        shape: the model's shape.
        settings: the run's settings.
        tokens: padded tokens of all rows.
        seen: columns, the tokens that one may see.
        layers: number of layers that keep theirs for the backward pass.
        attending: whether a layer is computing its attention.
    """
    places, e = tokens * seen, settings.dtype_bytes
    if settings.attention == "flex_attention":
        return shape.masks * places * BLOCK_BYTES // BLOCK**2
    if settings.attention == "sdpa":
        return places * (shape.masks + e * layers + (e + 1) * attending)
    kept = FLOAT32 + (0 if e == FLOAT32 else e)
    return places * (shape.masks * (1 + e) + shape.heads * (kept * layers + (3 * e + FLOAT32) * attending))


def folded_mask_bytes(shape: ModelShape, settings: Settings, tokens: int, seen: int) -> int:
    """Return the bytes of the masks of folded attention, beyond those that they are made from.

    A row for each query head that shares keys: for each type of layer a float one, which layers share; and while a boolean
    one becomes a float one, itself and its negation, in whose place a kernel that needs aligned rows later has a copy.

    Args:
        shape: the model's shape.
        settings: the run's settings.
        tokens: tokens of all samples.
        seen: columns.
    """
    groups, e = -(-shape.heads // shape.kv_heads), settings.dtype_bytes
    return groups * tokens * seen * (e * shape.masks + (max(2, e) if settings.attention == "sdpa" else 0))


def score_logits_bytes(shape: ModelShape, settings: Settings, tokens: int) -> int:
    """Return the bytes of a chunk of logits while log-probabilities are taken.

    Three in float32: logits, log-probabilities, and the probabilities, which become the gradient.
    """
    rows = min(tokens, LOGITS_AT_A_TIME)
    return 3 * FLOAT32 * rows * shape.vocabulary + grammar_bytes(shape, settings, rows)


def grammar_bytes(shape: ModelShape, settings: Settings, rows: int) -> int:
    """Return the bytes of grammars' masks for these rows of logits: a bit per token, three bytes where it is expanded."""
    if not settings.constrained:
        return 0
    return rows * shape.vocabulary // 8 + 3 * min(rows, ROWS_AT_A_TIME) * shape.vocabulary
