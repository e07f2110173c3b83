"""The order of examples: a permutation in every epoch, shares right at any time, a function of the place alone."""

import itertools

import numpy as np
import pytest

from mergedistill_jax.data.order import BLOCK, Order, permuted, whole_shares

SIZES = [*range(1, 41), 64, 97, 100, 255, 256, 257, 1000, 4097, 65_537]


def permutation(size, key):
    return permuted(np.arange(size), np.full(size, size), np.full(size, key, np.uint64))


@pytest.mark.parametrize("key", [0, 1, 2**64 - 1])
@pytest.mark.parametrize("size", SIZES)
def test_a_permutation_has_every_number_once(size, key):
    np.testing.assert_array_equal(np.sort(permutation(size, key)), np.arange(size))


def test_permutations_of_several_sizes_and_keys_at_once_are_those_one_by_one():
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 1000, 300)
    places = generator.integers(0, sizes)
    keys = generator.integers(0, 2**63, 300).astype(np.uint64)
    expected = [permutation(size, key)[place] for size, key, place in zip(sizes, keys, places, strict=True)]
    np.testing.assert_array_equal(permuted(places, sizes, keys), expected)


@pytest.mark.parametrize("size", [3, 4, 5])
def test_all_orders_of_a_few_records_are_equally_likely(size):
    """Chi-squared over the size! permutations of 20,000 keys, with four standard deviations of room."""
    keys = np.arange(20_000, dtype=np.uint64)
    columns = [permuted(np.full(len(keys), place), np.full(len(keys), size), keys) for place in range(size)]
    found, counts = np.unique(np.stack(columns, axis=1), axis=0, return_counts=True)
    orders = len(list(itertools.permutations(range(size))))
    assert len(found) == orders
    expected = len(keys) / orders
    freedom = orders - 1
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 4 * (2 * freedom) ** 0.5


def test_neighbours_are_torn_apart():
    """No window: the mean distance of neighbours is a third of the corpus, as of two records drawn at random."""
    places = permutation(100_000, 7)
    assert np.abs(np.diff(places)).mean() == pytest.approx(100_000 / 3, rel=0.02)


@pytest.mark.parametrize("shares", [(1.0,), (3.0, 1.0), (90.0, 9.0, 0.9, 0.09), tuple(range(1, 41))])
def test_shares_are_right_at_any_time(shares):
    """Among the first n examples of a block a source of share p has p n to within 1 + p s: see _spread."""
    order = Order(sizes=(1000,) * len(shares), shares=shares, seed=5)
    sources, _ = order.at(np.arange(3 * BLOCK))
    quotas = whole_shares(shares)
    assert quotas.sum() == BLOCK
    np.testing.assert_allclose(quotas / BLOCK, np.array(shares) / sum(shares), atol=0.51 / BLOCK)
    for block in range(3):
        here = sources[block * BLOCK : (block + 1) * BLOCK]
        for source, quota in enumerate(quotas):
            so_far = np.cumsum(here == source)
            assert so_far[-1] == quota
            error = np.abs(so_far - quota / BLOCK * np.arange(1, BLOCK + 1))
            assert error.max() < 1 + quota / BLOCK * len(shares)


def test_shares_of_blocks_are_whole_numbers_and_never_none():
    assert whole_shares([1, 1, 1]).tolist() == [21_846, 21_845, 21_845]
    assert whole_shares([0.5, 0.25, 0.25]).tolist() == [BLOCK // 2, BLOCK // 4, BLOCK // 4]
    assert whole_shares([1.0, 1e-9, 1e-9]).tolist() == [BLOCK - 2, 1, 1]


def test_sources_alternate_irregularly():
    """Even is not regular: the gaps between the examples of one of two equal sources are of several lengths."""
    sources, _ = Order(sizes=(100, 100), shares=(1.0, 1.0), seed=0).at(np.arange(1000))
    gaps = np.diff(np.flatnonzero(sources == 0))
    assert set(gaps.tolist()) == {1, 2, 3}


@pytest.mark.parametrize("sizes", [(90, 30, 10), (1, 2, 9_000)])
def test_every_epoch_of_a_source_reads_every_record_once(sizes):
    order = Order(sizes=sizes, shares=(9.0, 3.0, 1.0), seed=1)
    sources, records = order.at(np.arange(4 * BLOCK))
    for source, size in enumerate(sizes):
        own = records[sources == source]
        epochs = own[: len(own) // size * size].reshape(-1, size)
        assert len(epochs) > 1
        np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(size), (len(epochs), 1)))
        if size > 10:
            assert (epochs[0] != epochs[1]).any()


def test_sources_of_one_size_are_read_in_different_orders():
    sources, records = Order(sizes=(100, 100), shares=(1.0, 1.0), seed=0).at(np.arange(200))
    assert records[sources == 0].tolist() != records[sources == 1].tolist()


def test_a_place_is_enough():
    """However places are asked for, and however far away they are."""
    order = Order(sizes=(90, 30, 10), shares=(9.0, 3.0, 1.0), seed=2)
    places = np.concatenate([np.arange(BLOCK - 100, BLOCK + 100), 10**14 + np.arange(100)])
    whole = np.stack(order.at(places))
    shuffled = np.random.default_rng(0).permutation(len(places))
    np.testing.assert_array_equal(np.stack(order.at(places[shuffled])), whole[:, shuffled])
    for index in (0, 150, -1):
        np.testing.assert_array_equal(np.concatenate(order.at(places[[index]])), whole[:, index])


def test_seeds_are_any_whole_numbers_and_differ():
    found = [
        np.stack(Order(sizes=(90, 30), shares=(3.0, 1.0), seed=seed).at(np.arange(50))).tolist()
        for seed in (0, 1, -1, 2**63, 2**70 + 3)
    ]
    assert all(one != other for one, other in itertools.combinations(found, 2))


def test_the_order_is_the_one_that_runs_were_begun_in():
    """A golden: another order needs another ORDER, or runs under way would go on with other batches."""
    sources, records = Order(sizes=(4, 2), shares=(3.0, 1.0), seed=0).at(np.arange(12))
    assert sources.tolist() == GOLDEN_SOURCES
    assert records.tolist() == GOLDEN_RECORDS


GOLDEN_SOURCES = [0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0]
GOLDEN_RECORDS = [0, 2, 1, 1, 3, 1, 0, 3, 1, 2, 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"), [({"sizes": (3, 0)}, "sizes: found 0"), ({"shares": (1.0, 0.0)}, "shares: found 0.0")]
)
def test_empty_sources_are_refused(changes, message):
    with pytest.raises(ValueError, match=f"Order.{message}, expected more than 0"):
        Order(**{"sizes": (3, 3), "shares": (1.0, 1.0), "seed": 0, **changes})
