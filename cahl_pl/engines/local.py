"""Sampling with the transformers model that is being trained: same weights, same process, nothing to keep in sync.

It does what groups need and `generate()` does not: shared parts of prompts are run once (`packing`), the samples of a prompt
read the same keys and values, these are in buffers of their final size, and finished samples leave the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from cahl_pl.engines.alone import Prefixes, read_alone
from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.engines.drawing import draw, draw_places, outcome
from cahl_pl.policy.constraint import Matchers, check_installed, compiler_of
from cahl_pl.policy.endings import stop_ids
from cahl_pl.policy.folded_attention import folded_attention
from cahl_pl.policy.forward import Pass, keep_prefixes, run
from cahl_pl.policy.kv_cache import SampleCache, run_layers
from cahl_pl.policy.packing import PackedRow, batches, pack
from cahl_pl.policy.policy import Policy
from cahl_pl.policy.prefix_store import Places
from cahl_pl.types import Role


class TransformersEngine(Engine):
    """Batched sampling in this process.

    Args:
        batch_size: maximum completions decoded at once; if there are more, prompts take turns. One prompt's
            samples stay together, even if they are more.
        max_prefill_tokens: maximum prompt tokens read in one pass, shared ones counted once; a longer row of
            prompts (`packing`) is read alone. It bounds the activations, not how many completions are decoded at once.

    Raises:
        ValueError: an argument is below 1.
    """

    def __init__(self, batch_size: int = 256, max_prefill_tokens: int = 16384) -> None:
        if batch_size < 1 or max_prefill_tokens < 1:
            raise ValueError(
                f"engine.batch_size and max_prefill_tokens must be at least 1, not {batch_size} and {max_prefill_tokens}"
            )
        self.batch_size = batch_size
        self.max_prefill_tokens = max_prefill_tokens

    def check_constrained_training(self) -> None:
        """See `Engine.check_constrained_training`; satisfied here.

        Raises:
            ConfigError: llguidance is missing.
        """
        check_installed()

    @torch.no_grad()
    def generate(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        num_samples: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[list[Completion]]:
        """See `Engine.generate`.

        Raises:
            ConfigError: a completion may become longer than the base can take.
        """
        policy.check_length(max(map(len, prompts), default=0) + sampling.max_new_tokens)
        policy.activate(role)
        frozen = [policy.frozen_tokens(prompt) for prompt in prompts]
        return self.sample(policy, prompts, frozen, num_samples, sampling, generator)

    @torch.no_grad()
    def generate_from_drafts(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        drafts: Sequence[Sequence[int]],
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[list[Completion]]:
        """See `Engine.generate_from_drafts`. In greedy sampling, a draft is read in one pass with its prompt.

        The tokens that the model itself would have chosen, and the first one that differs, begin the completion;
        the rest, if it has not ended there, is sampled as usual (speculative decoding, arXiv 2211.17192, with a
        draft that costs nothing).

        Raises:
            ConfigError: a completion may become longer than the base can take.
        """
        if sampling.temperature > 0 or not any(drafts):
            return super().generate_from_drafts(policy, role, prompts, drafts, sampling, generator)
        return self._from_drafts(policy, role, prompts, drafts, sampling, generator)

    @torch.no_grad()
    def generate_within(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        drafts: Sequence[Sequence[int]],
        grammars: Sequence[str],
        sampling: Sampling,
        generator: torch.Generator,
        num_samples: int = 1,
    ) -> list[list[Completion]]:
        """See `Engine.generate_within`."""
        compiler = compiler_of(policy)
        within = Matchers(compiler, [compiler.matcher(grammar) for grammar in grammars])
        if sampling.temperature > 0 or num_samples > 1:
            drafts = [()] * len(prompts)  # a draft does not help to sample at random
        return self._from_drafts(policy, role, prompts, drafts, sampling, generator, within, num_samples)

    def _from_drafts(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        drafts: Sequence[Sequence[int]],
        sampling: Sampling,
        generator: torch.Generator,
        within: Matchers | None = None,
        num_samples: int = 1,
    ) -> list[list[Completion]]:
        policy.activate(role)
        policy.check_length(max(map(len, prompts), default=0) + sampling.max_new_tokens)
        frozen = [policy.frozen_tokens(prompt) for prompt in prompts]
        if not any(drafts):
            return self.sample(policy, prompts, frozen, num_samples, sampling, generator, within)
        found = _verify(policy, prompts, drafts, frozen, sampling, self.max_prefill_tokens, within)
        open_ = [i for i, c in enumerate(found) if not c.ended and len(c.ids) < sampling.max_new_tokens]
        for together in _continued_together(policy, open_, found):
            longer = [[*prompts[i], *found[i].ids.tolist()] for i in together]
            left = sampling.max_new_tokens - min(len(found[i].ids) for i in together)
            behind = None if within is None else within.of(together).after([found[i].ids for i in together])
            rest = self.sample(
                policy,
                longer,
                [frozen[i] for i in together],
                1,
                replace(sampling, max_new_tokens=left),
                generator,
                behind,
            )
            for i, (more,) in zip(together, rest, strict=True):
                found[i] = _joined(found[i], more, sampling.max_new_tokens)
        return [[completion] for completion in found]

    @torch.no_grad()
    def go_on(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        begun: Sequence[Sequence[int]],
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[Completion]:
        """See `Engine.go_on`. An activated adapter acts from the same place in the prompt, whatever a completion quotes.

        Raises:
            ConfigError: a completion may become longer than the base can take.
        """
        longer = [[*prompt, *start] for prompt, start in zip(prompts, begun, strict=True)]
        policy.check_length(max(map(len, longer), default=0) + sampling.max_new_tokens)
        policy.activate(role)
        frozen = [policy.frozen_tokens(prompt) for prompt in prompts]
        return [rest for (rest,) in self.sample(policy, longer, frozen, 1, sampling, generator)]

    def sample(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        frozen: Sequence[int],
        num_samples: int,
        sampling: Sampling,
        generator: torch.Generator,
        within: Matchers | None = None,
    ) -> list[list[Completion]]:
        """Sample with the active adapter; the bare base reads the first `frozen` tokens of each prompt.

        There is one matcher per prompt; each sample gets its own copy.
        """
        completions: list[list[Completion]] = [[] for _ in prompts]
        if not policy.shares_rows:
            order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
            at_once = max(1, self.batch_size // num_samples)
            for start in range(0, len(order), at_once):
                some = order[start : start + at_once]
                alone = [prompts[i] for i in some]
                members, prefixes = read_alone(
                    policy, alone, num_samples, sampling.max_new_tokens, self.max_prefill_tokens
                )
                behind = None if within is None else within.of([some[member] for member in members])
                with folded_attention(policy.decoder):
                    decoded = _decode(policy, prefixes, sampling, generator, behind)
                for member, found in zip(members, decoded, strict=True):
                    completions[some[member]] += found
            return completions
        rows = _packed(policy, prompts, frozen, [len(prompt) - 1 for prompt in prompts])
        for chunk in _chunks(rows, max(1, self.batch_size // num_samples)):
            parts = list(batches(chunk, self.max_prefill_tokens))
            members = [member for part in parts for row in part for member in row.members]
            prefixes = _prefill(policy, parts, num_samples, sampling.max_new_tokens)
            behind = None if within is None else within.of(members, num_samples)
            with folded_attention(policy.decoder):
                decoded = _decode(policy, prefixes, sampling, generator, behind)
            for member, samples in zip(members, decoded, strict=True):
                completions[member] = samples
        return completions


def _packed(
    policy: Policy, sequences: Sequence[Sequence[int]], frozen: Sequence[int], context_tokens: Sequence[int]
) -> list[PackedRow]:
    """Return rows of the sequences; hidden states of the first `context_tokens` tokens of each are not needed."""
    longest = max(map(len, sequences), default=1)
    rows = pack(sequences, policy.hidden_size, longest * 4, frozen, context_tokens, policy.shares_rows)
    if not policy.shares_rows:
        return rows
    policy.begin_prefixes()
    for row in rows:
        ids = np.asarray(row.ids)
        # without gradients, the members' common start can be cached here too, and what is cached left out
        context = _context_of(policy, row, frozen)
        known = [
            policy.prefixes.length(policy.prefix_owner, ids[path[:tokens]])
            for path, tokens in zip(row.paths, context, strict=True)
        ]
        if policy.config.adapter == "lora":
            row.freeze_trunk(known)
    return rows


def _context_of(policy: Policy, row: PackedRow, frozen: Sequence[int]) -> list[int]:
    """Return, for each member of a row, how many of its first tokens can be cached, and left out if they are."""
    return row.context_tokens if policy.config.adapter == "lora" else [frozen[member] for member in row.members]


def _keep(policy: Policy, rows: Sequence[PackedRow], result: Pass) -> None:
    """Cache what an adapter has read; what the bare base has read is already cached (`forward`)."""
    if policy.config.adapter == "lora" and policy.shares_rows:
        keep_prefixes(policy, rows, result.columns, result.cache, [row.context_tokens for row in rows])


def _verify(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    drafts: Sequence[Sequence[int]],
    frozen: Sequence[int],
    sampling: Sampling,
    max_tokens: int,
    within: Matchers | None = None,
) -> list[Completion]:
    """Return the part of each draft that the model accepts, and the token that it takes next, if any."""
    stop, limit = stop_ids(policy), sampling.max_new_tokens
    guesses = [list(draft[:limit]) for draft in drafts]
    # nothing is needed after a draft's end or the limit: the last token need not be read
    read = [guess[:-1] if len(guess) == limit or stop.intersection(guess[-1:]) else guess for guess in guesses]
    sequences = [[*prompt, *guess] for prompt, guess in zip(prompts, read, strict=True)]
    found: dict[int, Completion] = {}
    for part in batches(_packed(policy, sequences, frozen, [len(prompt) - 1 for prompt in prompts]), max_tokens):
        result = run(policy, part, keep_cache=policy.shares_rows)
        _keep(policy, part, result)
        for r, row in enumerate(part):
            for member, path in zip(row.members, row.paths, strict=True):
                places = result.columns[r][path[len(prompts[member]) - 1 :]] - result.width
                hidden = result.hidden[r, torch.from_numpy(places).to(policy.device)]
                along = None if within is None else within.along(member, read[member])
                taken, logprobs = (x.cpu() for x in draw(policy.logits(hidden), sampling, torch.Generator(), along))
                ids, guess = taken.tolist(), guesses[member]
                count = 1 + next((i for i, token in enumerate(guess) if ids[i] != token), len(guess))
                end = next((i for i, token in enumerate(ids[:count]) if token in stop), None)
                count = min(count, limit, limit if end is None else end + 1)
                found[member] = Completion(taken[:count], logprobs[:count], end is not None and end < count)
    return [found[member] for member in range(len(prompts))]


def _continued_together(policy: Policy, open_: Sequence[int], found: Sequence[Completion]) -> list[list[int]]:
    """Return which completions are continued in one batch: all of them, up to the limit of the longest continuation.

    If the base limits the length, only those of one length: the others would be continued beyond their end and the limit.
    """
    if not policy.limits_length:
        return [list(open_)] if open_ else []
    lengths = sorted({len(found[i].ids) for i in open_})
    return [[i for i in open_ if len(found[i].ids) == length] for length in lengths]


def _joined(first: Completion, rest: Completion, limit: int) -> Completion:
    ids, logprobs = torch.cat([first.ids, rest.ids]), torch.cat([first.logprobs, rest.logprobs])
    return Completion(ids[:limit], logprobs[:limit], rest.ended and len(ids) <= limit)


def _chunks(rows: Sequence[PackedRow], max_prompts: int) -> Iterator[list[PackedRow]]:
    """Yield rows of at most `max_prompts` prompts in all; a row of more comes alone. Rows of similar length go together."""
    chunk: list[PackedRow] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if chunk and sum(len(r.members) for r in chunk) + len(row.members) > max_prompts:
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk


def _prefill(policy: Policy, parts: Sequence[Sequence[PackedRow]], num_samples: int, limit: int) -> Prefixes:
    """Run the prompts, one part at a time and shared tokens once, and lay out their keys and values for decoding."""
    on_host = torch.tensor([len(path) for rows in parts for row in rows for path in row.paths])
    used, first = int(on_host.max()), 0
    lengths = on_host.to(policy.device, non_blocking=True)
    final = used + num_samples * limit
    cache, last = SampleCache(len(lengths), used, final), []
    for rows in parts:
        result = run(policy, rows, keep_cache=True)
        _keep(policy, rows, result)
        paths = [torch.from_numpy(result.columns[r][path]) for r, row in enumerate(rows) for path in row.paths]
        row_of = torch.tensor([r for r, row in enumerate(rows) for _ in row.members])
        ends = torch.tensor([int(path[-1]) for path in paths])
        places = pad_sequence(paths, batch_first=True)  # [N, P]; padding is never seen
        places, row_of, ends = (x.to(policy.device, non_blocking=True) for x in (places, row_of, ends))
        cache.lay_out(first, result.cache, row_of, places)
        last.append(result.hidden[row_of, ends - result.width])
        first += len(paths)
        del result  # free it before the next part and decoding need memory
    logits = policy.logits(torch.cat(last))
    seen = torch.zeros(len(lengths), num_samples, final, dtype=torch.bool, device=policy.device)
    seen[:, :, :used] = (torch.arange(used, device=policy.device) < lengths[:, None])[:, None]
    keys = torch.arange(final, device=policy.device).repeat(
        len(lengths), 1
    )  # after the prompt: set as they are sampled
    return Prefixes(
        cache,
        logits[:, None].expand(-1, num_samples, -1),
        (lengths - 1)[:, None].expand(-1, num_samples),
        seen,
        keys,
        used,
    )


def _decode(
    policy: Policy,
    prefixes: Prefixes,
    sampling: Sampling,
    generator: torch.Generator,
    within: Matchers | None = None,
) -> list[list[Completion]]:
    """Sample until every completion has ended or is at the limit; return one list of S completions per prompt.

    The host needs to know which completions have ended, so it waits for the device once per token, for all together.
    """
    cache, logits, position, visible, keys, used = prefixes
    device, limit = policy.device, sampling.max_new_tokens
    count, width = position.shape
    total = count * width
    stop = torch.tensor(sorted(stop_ids(policy))).to(device, non_blocking=True)
    tokens = torch.zeros(
        total + 1, limit, dtype=torch.long, device=device
    )  # the last row: for places without a completion
    logprobs = torch.zeros(total + 1, limit, device=device)
    lengths, ended = np.full(total, limit), np.zeros(total, bool)
    slots = np.arange(total).reshape(count, width)  # the completion that a place works on; -1: none
    slot = torch.from_numpy(slots).to(device, non_blocking=True)
    for t in range(limit):
        busy = slots >= 0
        if within is None:
            token, drawn = draw_places(logits, busy, sampling, generator)
        else:
            next_ = within.at(slots.flatten())
            logits = logits.contiguous()  # the samples of a prompt start with the very same row
            next_.hold(logits.flatten(0, 1))
            token, drawn = draw_places(logits, busy, sampling, generator)
            next_.take(token.flatten())
        tokens[:, t][slot], logprobs[:, t][slot] = token, drawn
        done = outcome(token, stop) & busy
        if done.any():
            lengths[slots[done]], ended[slots[done]] = t + 1, True
            slots = np.where(done, -1, slots)
            keep = _compact_rows(slots)
            if len(keep) == 0:
                break
            slots = slots[keep]
            # a prompt's unfinished samples move together; the prompt with the most of them sets the width
            order = np.argsort(slots < 0, axis=1, kind="stable")[:, : int((slots >= 0).sum(1).max())]
            slots = np.take_along_axis(slots, order, axis=1)
            kept = torch.from_numpy(keep)
            cache.keep_rows(kept)
            kept, places, slot = (
                x.to(device, non_blocking=True) for x in (kept, *map(torch.from_numpy, (order, slots)))
            )
            token, position, visible, keys = token[kept], position[kept], visible[kept], keys[kept]
            token, position = token.gather(1, places), position.gather(1, places)
            visible = visible.gather(1, places[:, :, None].expand(-1, -1, visible.shape[2]))
        if t + 1 == limit:
            break
        width = slots.shape[1]
        visible[:, :, used : used + width].diagonal(dim1=1, dim2=2).fill_(True)
        position = position + 1
        keys[:, used : used + width] = position  # the samples of a prompt are equally long
        used += width
        mask = policy.attention_mask(visible[:, :, :used], position, keys[:, :used])
        hidden = run_layers(policy.decoder, token, mask, position, cache)
        logits = policy.logits(hidden)

    tokens, logprobs = tokens.cpu(), logprobs.cpu()
    completions = [
        Completion(tokens[i, :n].clone(), logprobs[i, :n].clone(), bool(end))
        for i, (n, end) in enumerate(zip(lengths.tolist(), ended.tolist(), strict=True))
    ]
    samples = len(completions) // count
    return [completions[i : i + samples] for i in range(0, len(completions), samples)]


def _compact_rows(slots: Places) -> Places:
    """Return the rows that are still active; the last of them replace finished ones, so that little is copied."""
    busy = (slots >= 0).max(1)
    left = int(busy.sum())
    keep = np.arange(left)
    keep[~busy[:left]] = left + np.flatnonzero(busy[left:])
    return keep
