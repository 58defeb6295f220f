"""Batches as a pure function of (data seed, step): the data position of a run is one integer.

The training stream is cut into windows of T + 1 tokens that overlap by one (inputs and their next tokens).  An epoch
visits every window once in a pseudo-random order; the order and the phase of the cut are functions of (seed, epoch)
alone, computed with integers, so they are the same on every machine and version.
"""

from typing import Any

import numpy as np

from lab.check import InputError

_ROUNDS = 6


def window_count(tokens: int, length: int) -> int:
    """Windows per epoch that are sure to fit for every phase of the cut.

    Raises:
        InputError: the stream is shorter than two windows.
    """
    count = (tokens - length) // length
    if count < 1:
        raise InputError(
            f"data.length={length} needs at least {2 * length} training tokens, and the corpus has {tokens}: use a "
            "longer text or a shorter data.length"
        )
    return count


def starts(seed: int, *, begin: int, steps: int, sequences: int, length: int, tokens: int) -> np.ndarray:
    """First token of each window of updates begin..begin+steps-1, int64 of shape [steps, sequences]."""
    count = window_count(tokens, length)
    position = np.arange(begin * sequences, (begin + steps) * sequences, dtype=np.int64)
    epoch, index = np.divmod(position, count)
    found = np.empty_like(position)
    for number in np.unique(epoch):
        here = epoch == number
        key = _mix(np.uint64(seed) ^ _mix(np.uint64(number)))
        phase = int(key % np.uint64(length))
        found[here] = shuffled(index[here], count, key) * length + phase
    return found.reshape(steps, sequences)


def validation_starts(tokens: int, length: int, sequences: int) -> np.ndarray:
    """Evenly spaced, non-overlapping windows of the validation stream, int64 of shape [sequences].

    Raises:
        InputError: the validation split holds fewer windows.
    """
    count = (tokens - 1) // length
    if count < sequences:
        raise InputError(
            f"evaluation.sequences={sequences} of {length} tokens do not fit the validation split of {tokens} tokens: "
            f"use at most {count}, a longer text or a larger data.validation_fraction"
        )
    return np.arange(sequences, dtype=np.int64) * count // sequences * length


def shuffled(index: np.ndarray, count: int, key: np.uint64) -> np.ndarray:
    """A pseudo-random permutation of 0..count-1 at the given places, without writing it out.

    A balanced Feistel network over the smallest even number of bits, walked in cycles until it falls below count
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """
    half = np.uint64(max(1, (int(count - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [_mix(key + np.uint64(i)) for i in range(_ROUNDS)]
    value = index.astype(np.uint64)
    pending = np.ones(value.shape, bool)
    while pending.any():
        left, right = value[pending] >> half, value[pending] & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        value[pending] = (left << half) | right
        pending = value >= np.uint64(count)
    return value.astype(np.int64)


def _mix(x: Any) -> Any:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); arithmetic is modulo 2^64."""
    with np.errstate(over="ignore"):
        x = np.asarray(x, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
