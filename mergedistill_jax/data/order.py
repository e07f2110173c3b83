"""Which record an endless stream of examples holds at a place, computed from the place alone.

A stream mixes sources by their shares; every source is read in epochs, each a permutation of its records:

    example n          0   1   2   3   4   5   6   7  ...
    source             en  en  hi  en  en  en  hi  en     3 to 1, spread evenly
    its own j-th       0   1   0   2   3   4   1   5
    epoch of j         0   0   0   0   0   1   0   1      en has four records, hi has two
    record of source   2   0   1   3   1   3   0   0      another order in each epoch

Nothing is kept of what came before, and nothing of the corpus' size is held: a restart begins at any step at once, and
a process computes the rows it needs. Hashes are splitmix64 (Steele et al. 2014), integers throughout, so that every
machine finds the same order.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt64

ORDER = "records-1"
"""Names this order in a run's description: whoever changes what comes when gives it another number."""

BLOCK = 1 << 16
"""Examples over which the sources' shares are made whole numbers."""

_ROUNDS = 8
_GOLDEN = 0x9E3779B97F4A7C15
_WRAP = 1 << 64
_SPREAD, _PERMUTATION = 1, 2
"""What a hash is for: no two purposes share one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """The order of one stream.

    Attributes:
        sizes: records of every source.
        shares: of the examples, positive, of any sum; one of a 65,536th at least is given.
        seed: any whole number.
    """

    sizes: tuple[int, ...]
    shares: tuple[float, ...]
    seed: int

    def __post_init__(self) -> None:
        for field, wrong in (("sizes", min(self.sizes) < 1), ("shares", not min(self.shares) > 0)):
            if wrong:
                raise ValueError(f"Order.{field}: found {min(getattr(self, field))}, expected more than 0")

    def at(self, examples: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """The source of each example, and the number of the record in it."""
        quotas = whole_shares(self.shares)
        blocks, places = np.divmod(examples, BLOCK)
        source, own = np.empty_like(examples), np.empty_like(examples)
        for block in np.unique(blocks):
            here = blocks == block
            sources, numbers = _spread(tuple(quotas.tolist()), self.seed, int(block))
            source[here] = sources[places[here]]
            own[here] = block * quotas[source[here]] + numbers[places[here]]
        epoch, place = np.divmod(own, np.array(self.sizes)[source])
        keys = _hash(self.seed, _PERMUTATION, source, epoch)
        return source, permuted(place, np.array(self.sizes)[source], keys)


def whole_shares(shares: Sequence[float]) -> Int[np.ndarray, " s"]:
    """How many examples of a block each source has: largest remainders (Hamilton), and one for each at least."""
    exact = np.array(shares, np.float64) / np.sum(shares) * BLOCK
    quotas = np.maximum(np.floor(exact).astype(np.int64), 1)
    missing = BLOCK - int(quotas.sum())
    for index in np.argsort(quotas - exact, kind="stable")[: max(missing, 0)]:
        quotas[index] += 1
    for _ in range(-missing):  # what the smallest were given above their share is the largest's
        quotas[np.argmax(quotas)] -= 1
    return quotas


@functools.lru_cache(maxsize=8)
def _spread(quotas: tuple[int, ...], seed: int, block: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The source of every place of a block, and how many of that source stood before it in the block.

    The i-th of a source's q examples falls at a random time within [i / q, (i + 1) / q), and the times are sorted. So
    among the first n places of a block a source with a share p of it, one of s sources, has p n examples to within
    1 + p s: by any time each source is right to within one, and all together have miscounted by fewer than s.
    """
    sources = np.repeat(np.arange(len(quotas)), quotas)
    numbers = np.concatenate([np.arange(quota) for quota in quotas])
    fractions = (_hash(seed, _SPREAD, block, sources, numbers) >> np.uint64(11)).astype(np.float64) / (1 << 53)
    times = (numbers + fractions) / np.array(quotas)[sources]
    # Rounding may give two of one source the same time; a stable sort then keeps them in their order.
    order = np.argsort(times, kind="stable")
    return sources[order], numbers[order]


def permuted(
    places: Int[np.ndarray, " n"], sizes: Int[np.ndarray, " n"], keys: UInt64[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Where a keyed permutation of `size` numbers takes each place, computed one by one.

    An alternating Feistel network over a grid of a by b cells that is hardly larger than `size`, walked until it comes
    out inside (Black and Rogaway 2002): a bijection of the grid restricted to its orbits is one of the numbers.
    """
    widths = np.ceil(np.sqrt(sizes)).astype(np.int64)
    heights = -(-sizes // widths)
    found = places.copy()
    outside = np.arange(len(places))
    while len(outside):
        found[outside] = _network(found[outside], widths[outside], heights[outside], keys[outside])
        outside = outside[found[outside] >= sizes[outside]]
    return found


def _network(cells: np.ndarray, widths: np.ndarray, heights: np.ndarray, keys: np.ndarray) -> np.ndarray:
    rows, columns = np.divmod(cells, widths)
    for number in range(_ROUNDS):
        columns = (columns + _below(_mixed(keys, 2 * number, rows), widths)) % widths
        rows = (rows + _below(_mixed(keys, 2 * number + 1, columns), heights)) % heights
    return rows * widths + columns


def _below(hashes: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    return (hashes % bounds.astype(np.uint64)).astype(np.int64)


def _hash(*numbers: int | np.ndarray) -> np.ndarray:
    """One hash, uint64, for each row of numbers; a single number stands in every row."""
    hashes = np.zeros(1, np.uint64)
    for number in numbers:
        array = np.array([number % _WRAP], np.uint64) if isinstance(number, int) else number
        hashes = _mixed(hashes, 0, array)
    return hashes


def _mixed(hashes: np.ndarray, salt: int, numbers: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 over the hash so far, a salt and one number more; wraps at 64 bits."""
    mixed = (hashes + np.uint64(_GOLDEN * (salt + 1) % _WRAP)) ^ (numbers.astype(np.uint64) * np.uint64(_GOLDEN))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
