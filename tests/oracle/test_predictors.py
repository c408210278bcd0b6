"""The best readers are exact: against sums over everything that a source may have drawn."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tta_bench.oracle.alphabet import alphabet_costs
from tta_bench.oracle.bursty import Bursty
from tta_bench.oracle.chain import chain_losses
from tta_bench.oracle.fixed import Copy, Nothing, Recall
from tta_bench.oracle.markov import Chain
from tta_bench.oracle.stream import Draws, Stream
from tta_bench.oracle.switching import Switching
from tta_bench.oracle.tree import Tree

EXACT = {"rtol": 1e-12, "atol": 1e-12}
RANDOM = np.random.default_rng(0)


def read(symbols: int, documents: int = 3, length: int = 9) -> np.ndarray:
    return RANDOM.integers(symbols, size=(documents, length))


def evidence(symbols: Sequence[int], size: int, alpha: float) -> float:
    """The probability of symbols under a Dirichlet, one after another."""
    seen: Counter[int] = Counter()
    found = 1.0
    for place, symbol in enumerate(symbols):
        found *= (seen[symbol] + alpha) / (place + alpha * size)
        seen[symbol] += 1
    return found


def chain(document: Sequence[int], order: int, size: int, alpha: float) -> float:
    """The probability of a document, each context apart; its first symbols are uniform."""
    after: dict[tuple[int, ...], list[int]] = {}
    for place in range(order, len(document)):
        after.setdefault(tuple(document[place - order : place]), []).append(document[place])
    start = size ** -min(order, len(document))
    return start * math.prod(evidence(found, size, alpha) for found in after.values())


def conditionals(document: Sequence[int], whole: Callable[[Sequence[int]], float]) -> np.ndarray:
    """The losses of single symbols from the probabilities of beginnings."""
    logs = [math.log(whole(document[:end])) for end in range(len(document) + 1)]
    return -np.diff(logs)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_a_chain_is_the_product_of_its_contexts(order: int, alpha: float) -> None:
    documents = read(3)
    losses = Chain(symbols=3, alpha=alpha, order=order).losses(documents)
    for document, found in zip(documents.tolist(), losses, strict=True):
        expected = conditionals(document, lambda d: chain(d, order, 3, alpha))
        np.testing.assert_allclose(found, expected, **EXACT)


def all_trees(node: tuple[int, ...], depth: int, size: int) -> list[tuple[list, int, int]]:
    """Every tree from a node on: its leaves, the nodes that split, and those that might have."""
    if len(node) == depth:
        return [([node], 0, 0)]
    below = [all_trees((symbol, *node), depth, size) for symbol in range(size)]
    split = [
        (
            [leaf for part in parts for leaf in part[0]],
            1 + sum(part[1] for part in parts),
            1 + sum(part[2] for part in parts),
        )
        for parts in itertools.product(*below)
    ]
    return [([node], 0, 1), *split]


@pytest.mark.parametrize("depth", [1, 2])
def test_context_trees_are_the_sum_over_all_trees(depth: int) -> None:
    documents, alpha, prior = read(2, length=12), 0.5, 0.7
    trees = all_trees((), depth, 2)
    assert len(trees) == (2 if depth == 1 else 5)

    def whole(document: Sequence[int]) -> float:
        found = 0.0
        for leaves, splits, nodes in trees:
            p = 2.0 ** -min(depth, len(document)) * prior**splits * (1 - prior) ** (nodes - splits)
            for leaf in leaves:
                after = [
                    document[place]
                    for place in range(depth, len(document))
                    if tuple(document[place - len(leaf) : place]) == leaf
                ]
                p *= evidence(after, 2, alpha)
            found += p
        return found

    losses = Tree(symbols=2, alpha=alpha, depth=depth, split=prior).losses(documents)
    for document, found in zip(documents.tolist(), losses, strict=True):
        np.testing.assert_allclose(found, conditionals(document, whole), **EXACT)


@pytest.mark.parametrize(("every", "order"), [(1, 0), (2, 0), (1, 1), (3, 1)])
def test_switching_is_the_sum_over_all_changes(every: int, order: int) -> None:
    stream = Switching(symbols=3, alpha=0.3, hazard=0.2, every=every, order=order)
    documents = read(3)

    def whole(document: Sequence[int]) -> float:
        scored = range(order, len(document))
        places = [p for p in scored if p > order and (p - order) % every == 0]
        found = 0.0
        for changes in itertools.product((False, True), repeat=len(places)):
            cuts = [order, *itertools.compress(places, changes), max(order, len(document))]
            p = 3.0 ** -min(order, len(document))
            p *= 0.2 ** sum(changes) * 0.8 ** (len(places) - sum(changes))
            for start, end in itertools.pairwise(cuts):
                after: dict[tuple[int, ...], list[int]] = {}
                for place in range(start, end):
                    context = tuple(document[place - order : place])
                    after.setdefault(context, []).append(document[place])
                p *= math.prod(evidence(part, 3, 0.3) for part in after.values())
            found += p
        return found

    for document, found in zip(documents.tolist(), stream.losses(documents), strict=True):
        np.testing.assert_allclose(found, conditionals(document, whole), **EXACT)


def test_what_switching_forgets_moves_nothing() -> None:
    """Against a filter that keeps every beginning."""
    stream = Switching(symbols=6, alpha=0.2, hazard=0.02, every=2)
    document = stream.draw(0, 2400)
    starts, log_weights = [0], np.zeros(1)
    counts = np.zeros((1, 6))
    expected = []
    for place, symbol in enumerate(document.tolist()):
        if place and place % 2 == 0:
            starts.append(place)
            log_weights = np.append(log_weights + math.log(0.98), math.log(0.02))
            counts = np.concatenate([counts, np.zeros((1, 6))])
        joint = log_weights + np.log(
            (counts[:, symbol] + 0.2) / (place - np.array(starts) + 6 * 0.2)
        )
        total = np.logaddexp.reduce(joint)
        expected.append(-total)
        log_weights = joint - total
        counts[:, symbol] += 1
    np.testing.assert_allclose(stream.losses(document[None])[0], expected, rtol=0, atol=1e-12)


def test_a_long_context_tree_is_that_of_the_sequential_algorithm() -> None:
    stream = Tree(symbols=3, depth=2, split=0.6)
    document = stream.draw(1, 3000)
    counts: dict[tuple[int, ...], np.ndarray] = {}
    odds: dict[tuple[int, ...], float] = {}
    expected = [math.log(3)] * 2
    for place in range(2, len(document)):
        symbol = document[place]
        weighted = 0.0
        for level in (2, 1, 0):
            node = tuple(document[place - level : place].tolist())
            seen = counts.setdefault(node, np.zeros(3))
            own = math.log((seen[symbol] + 0.5) / (seen.sum() + 1.5))
            seen[symbol] += 1
            if level == 2:
                weighted = own
                continue
            b = odds.get(node, math.log(1.5))
            mixed = np.logaddexp(own - np.logaddexp(0, b), weighted - np.logaddexp(0, -b))
            odds[node] = b + weighted - own
            weighted = float(mixed)
        expected.append(-weighted)
    np.testing.assert_allclose(stream.losses(document[None])[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("d", "symbols"), [(0.0, 20), (0.4, 20), (0.4, 3)])
def test_the_restaurant_is_its_sequential_rule(d: float, symbols: int) -> None:
    stream = Bursty(symbols=symbols, d=d, theta=1.5)
    document = stream.draw(2, 60)
    seen: Counter[int] = Counter()
    expected = []
    for place, symbol in enumerate(document.tolist()):
        kinds = len(seen)
        if symbol in seen:
            over = place - d * symbols if kinds == symbols else place + 1.5
            p = (seen[symbol] - d) / over
        else:
            p = (1.5 + d * kinds) / (place + 1.5) / (symbols - kinds)
        expected.append(-math.log(p))
        seen[symbol] += 1
    assert (len(seen) == 3) == (symbols == 3)
    np.testing.assert_allclose(stream.losses(document[None])[0], expected, **EXACT)


# What a source draws, and what its reader expects


STREAMS: list[tuple[Stream, int]] = [
    (Chain(symbols=2, alpha=0.5), 4),
    (Chain(symbols=2, alpha=0.2, order=1), 4),
    (Chain(symbols=2, alpha=0.5, order=2), 5),
    (Tree(symbols=2, depth=2, split=0.6), 6),
    (Switching(symbols=2, alpha=0.3, hazard=0.4, every=1), 4),
    (Switching(symbols=2, alpha=0.3, hazard=0.4, every=2, order=1), 6),
    (Bursty(symbols=9, d=0.4, theta=1.0), 4),
    (Bursty(symbols=2, d=0.6, theta=2.0), 5),
    (Copy(symbols=2, lag=2), 6),
    (Recall(symbols=2, keys=3, pairs=2, gap=0), 8),
    (Nothing(symbols=3), 3),
]


@pytest.mark.parametrize(("stream", "length"), STREAMS, ids=repr)
def test_documents_come_as_often_as_their_reader_expects(stream: Stream, length: int) -> None:
    count = 1200
    drawn = Counter(tuple(stream.draw(document, length).tolist()) for document in range(count))
    every = np.array(list(drawn))
    probabilities = np.exp(-stream.losses(every).sum(1))
    assert probabilities.sum() <= 1 + 1e-12
    # Rare documents together are one kind, so that the squares of Pearson's statistic behave.
    often = count * probabilities >= 5
    expected = [*(count * probabilities[often]), count * (1 - probabilities[often].sum())]
    seen = [drawn[tuple(document)] for document in every[often].tolist()]
    seen.append(count - sum(seen))
    kinds = [(s, e) for s, e in zip(seen, expected, strict=True) if e > 1e-6]
    assert sum(s for s, _ in kinds) == count
    statistic = sum((s - e) ** 2 / e for s, e in kinds)
    assert statistic < len(kinds) + 5 * math.sqrt(2 * len(kinds))


def test_the_entropy_of_the_source_is_reached_from_above() -> None:
    """The mean loss is the entropy, and the price of learning V - 1 numbers per row (Rissanen)."""
    length = 200_000
    for stream in (Chain(symbols=8, alpha=0.5), Chain(symbols=4, alpha=0.5, order=2)):
        table = stream.table(Draws(stream.seed, 0))
        document = stream.draw(0, length)
        context = np.zeros(length - stream.order, np.int64)
        for back in range(stream.order):
            context += document[stream.order - 1 - back : length - 1 - back] * stream.symbols**back
        true = -np.log(table[context, document[stream.order :]]).sum()
        loss = stream.losses(document[None])[0, stream.order :].sum()
        price = len(table) * (stream.symbols - 1) / 2 * math.log(length)
        assert 0 < loss - true < price
        visits = np.bincount(context, minlength=len(table)) / len(context)
        entropy = -(visits[:, None] * table * np.log(table)).sum()
        assert loss / length == pytest.approx(entropy, abs=0.01)


def test_a_tree_costs_little_more_than_its_leaves() -> None:
    stream, length = Tree(symbols=4, depth=3, split=0.6), 100_000
    for number in range(3):
        draws = Draws(stream.seed, number)
        leaf = stream.leaves(draws)
        leaves = int(leaf.max()) + 1
        table = stream.table(draws, leaves)
        document = stream.draw(number, length)
        context = sum(document[2 - back : length - 1 - back] * 4**back for back in range(3))
        true = -np.log(table[leaf[context], document[3:]]).sum()
        loss = stream.losses(document[None])[0, 3:].sum()
        assert 0 < loss - true < leaves * (1.5 * math.log(length) + 3)


# One contains another


def test_readers_agree_where_one_contains_another() -> None:
    documents = read(5, length=200)
    unigram = Chain(symbols=5, alpha=0.5).losses(documents)
    np.testing.assert_allclose(Tree(symbols=5, depth=0).losses(documents), unigram, **EXACT)
    never = Switching(symbols=5, alpha=0.5, hazard=0.0)
    np.testing.assert_allclose(never.losses(documents), unigram, **EXACT)
    one = Switching(symbols=5, alpha=0.5, hazard=0.0, order=1)
    expected = Chain(symbols=5, alpha=0.5, order=1).losses(documents)
    np.testing.assert_allclose(one.losses(documents), expected, **EXACT)


def test_without_a_discount_the_restaurant_is_the_process_of_dirichlet() -> None:
    """n_a / (n + theta), and theta / (n + theta) for something new."""
    stream = Bursty(symbols=1000, d=0.0, theta=3.0)
    document = stream.draw(0, 300)
    kinds = np.array([len(set(document[:n])) for n in range(300)])
    counts = np.array([(document[:n] == document[n]).sum() for n in range(300)])
    over = np.arange(300) + 3.0
    expected = np.where(counts, counts, 3.0 / (1000 - kinds)) / over
    np.testing.assert_allclose(stream.losses(document[None])[0], -np.log(expected), **EXACT)


def test_a_markov_chain_of_order_0_is_unigram() -> None:
    documents = read(4)
    np.testing.assert_array_equal(
        Chain(symbols=4, order=0).losses(documents), chain_losses(documents, 0, 4, 0.5)
    )


def test_pairs_are_all_there_is_to_know_of_an_episode() -> None:
    """All episodes are equally likely: their number is what one costs."""
    stream = Recall(symbols=5, keys=4, pairs=3, gap=2)
    losses = stream.losses(stream.draw(0, 14)[None])[0]
    number = math.factorial(4) * 5**3 * 5**2 * math.factorial(3)
    assert losses.sum() == pytest.approx(math.log(number), abs=1e-12)
    assert (losses[9::2] == 0).all()


# The alphabet


@pytest.mark.parametrize(
    "stream",
    [Chain(symbols=2, alpha=0.3, order=1), Switching(symbols=2, every=2), Bursty(symbols=2)],
    ids=repr,
)
def test_finding_the_alphabet_is_the_mean_over_all_alphabets(stream: Stream) -> None:
    """P(tokens) is the mean of P(symbols) over the ways to choose 2 of 4 tokens in order."""
    for tokens in itertools.product(range(4), repeat=4):
        if len(set(tokens)) > 2:
            continue
        total = 0.0
        for alphabet in itertools.permutations(range(4), 2):
            if set(tokens) <= set(alphabet):
                symbols = np.array([[alphabet.index(token) for token in tokens]])
                total += math.exp(-stream.losses(symbols).sum())
        expected = -math.log(total / 12)
        first = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
        symbols = np.array([[first[token] for token in tokens]])
        found = (stream.losses(symbols) + alphabet_costs(stream, symbols, 4)).sum()
        assert found == pytest.approx(expected, abs=1e-12)


def test_the_alphabet_costs_the_same_in_every_order() -> None:
    stream = Recall(symbols=7, keys=5, pairs=5, gap=0)
    document = stream.draw(0, 2000)[None]
    total = alphabet_costs(stream, document, 50).sum()
    # 12 tokens of 50 in order; within each class the order of first sights is as likely as any.
    ways = math.perm(50, 12) / (math.factorial(5) * math.factorial(7))
    assert total == pytest.approx(math.log(ways), abs=1e-10)
