"""A vocabulary smaller than the union, by expected use: what costs the fewest tokens to lose goes first.

A token that is left out is spelled with what is left, so that losing it lengthens the text by

    cost(token) = use(token) * (pieces of its spelling - 1)

and hands its use on to those pieces. `use` is its share of the transfer corpora as their teachers cut them, each
language weighted as in training. Tokens go in rounds, the cheapest first and at most a fifth of what may go in a round,
because each round changes the costs of the next: the pruning of Unigram models (Kudo 2018, section 3.2) with the length
of the text in the place of its likelihood. Special tokens and single characters stay, so everything can still be
spelled.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from mergedistill_jax.vocabulary.canonical import PREFIX, SPECIAL, atoms
from mergedistill_jax.vocabulary.id_map import DROPPED, UNK_ID, IdMap, ragged_map
from mergedistill_jax.vocabulary.tokenizer import VocabularyError
from mergedistill_jax.vocabulary.union import Union

ROUND_SHARE = 0.2


def spell(token: str, known: Mapping[str, int], *, without: str | None = None) -> list[str] | None:
    """A canonical token as longest matches from a vocabulary, as WordPiece would; None where a character is missing."""
    parts, inside = atoms(token), token.startswith(PREFIX)
    pieces: list[str] = []
    start = 0
    while start < len(parts):
        for stop in range(len(parts), start, -1):
            piece = (PREFIX if inside or start else "") + "".join(parts[start:stop])
            if piece in known and piece != without:
                break
        else:
            return None
        pieces.append(piece)
        start = stop
    return pieces


def cut_union(union: Union, use: Float[np.ndarray, " v"], size: int) -> tuple[tuple[str, ...], dict[str, IdMap]]:
    """The tokens that stay, in the union's order, and the teachers' maps into them.

    Args:
        union: the whole.
        use: expected share of each of its tokens in the transfer corpora.
        size: tokens that shall stay.

    Raises:
        VocabularyError: special tokens and characters alone are more than `size`.
    """
    kept = _keep(union.tokens, use, size)
    ids = {token: index for index, token in enumerate(kept)}
    spelled: dict[int, list[int]] = {}
    for index, token in enumerate(union.tokens):
        pieces = [token] if token in ids else spell(token, ids)
        spelled[index] = [ids[piece] for piece in pieces] if pieces else [UNK_ID]
    maps = {}
    for name, id_map in union.id_maps.items():
        labels = [ids.get(union.tokens[i], DROPPED) if i != DROPPED else DROPPED for i in id_map.tolist()]
        rows = [spelled[i] if i != DROPPED else [UNK_ID] for i in id_map.tolist()]
        maps[name] = ragged_map(np.array(labels, np.int32), rows)
    return tuple(kept), maps


def _keep(tokens: Sequence[str], use: Float[np.ndarray, " v"], size: int) -> list[str]:
    fixed = {token for token in tokens if token in SPECIAL or len(atoms(token)) == 1}
    if len(fixed) > size:
        raise VocabularyError(
            f"UnionConfig.size: found {size}, expected at least {len(fixed)}: special tokens and single characters stay"
        )
    known = {token: index for index, token in enumerate(tokens)}
    used = use.astype(np.float64).copy()
    while len(known) > size:
        removable = [token for token in known if token not in fixed]
        costs = []
        for token in removable:
            pieces = spell(token, known, without=token) or [token]
            costs.append((used[known[token]] * (len(pieces) - 1), -known[token], token, pieces))
        costs.sort(key=lambda cost: cost[:2])  # of equal cost the later token goes
        unused = sum(cost[0] == 0 for cost in costs)
        quota = max(int(ROUND_SHARE * len(costs)), unused, 1)
        for _, _, token, pieces in costs[: min(quota, len(known) - size)]:
            index = known.pop(token)
            for piece in pieces:
                # A piece that went earlier in the same round is spelled in its turn.
                for final in [piece] if piece in known else (spell(piece, known) or []):
                    used[known[final]] += used[index]
    return list(known)


def token_use(counts: Mapping[str, Int[np.ndarray, " v"]], exponent: float) -> Float[np.ndarray, " v"]:
    """Expected share of each union token: of each corpus its shares, weighted by its size to the power `exponent`."""
    sizes = {name: float(count.sum()) for name, count in counts.items()}
    weights = {name: size**exponent for name, size in sizes.items() if size}
    total = sum(weights.values())
    first = next(iter(counts.values()))
    shares = np.zeros(len(first))
    for name, weight in weights.items():
        shares += weight / total * counts[name] / sizes[name]
    return shares
