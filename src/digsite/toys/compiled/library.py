"""The programs that come with digsite.

Each is one that people look for in trained models, or one on which methods are known to fail. Rows with a "|" give the
question before it and the answer, token by token, after it: there a model writes what it has computed.
"""

from collections.abc import Iterator, Sequence
from itertools import permutations, product

from digsite._core.errors import BadInput, explain
from digsite.toys.compiled.language import Selector, SOp, aggregate, map_, select, selector_width, sequence_map, total
from digsite.toys.compiled.program import Program, Row

BAR = "|"


def same(a: object, b: object) -> bool:
    """Equality, as a predicate."""
    return a == b


def at(indices: SOp, index: int) -> Selector:
    """The selector of one fixed position."""
    return select(indices, None, lambda key: key == index)


def _flag(x: SOp, *, name: str) -> SOp:
    return map_(lambda value: "yes" if value else "no", x, name=name)


# -- moving one token ----------------------------------------------------------------------------------------------
def _previous(tokens: SOp, indices: SOp) -> SOp:
    return aggregate(select(indices, indices, lambda key, query: key == query - 1), tokens, name="previous token")


def _previous_token(length: int) -> Program:
    return Program(
        name="previous-token",
        description="the token before",
        vocabulary=("a", "b", "c", "d"),
        length=length,
        output=_previous,
        judged=lambda row: range(1, len(row)),
    )


def _first_token(length: int) -> Program:
    return Program(
        name="first-token",
        description="the first token, at every position",
        vocabulary=("a", "b", "c", "d"),
        length=length,
        output=lambda tokens, indices: aggregate(at(indices, 0), tokens),
    )


def _same_token(length: int) -> Program:
    return Program(
        name="same-token",
        description="the token itself: from the embedding to the logits, and nothing between",
        vocabulary=("a", "b", "c", "d"),
        length=length,
        output=lambda tokens, indices: tokens,
    )


def _successor(length: int) -> Program:
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    return Program(
        name="successor",
        description="the day after",
        vocabulary=days,
        length=length,
        output=lambda tokens, indices: map_(lambda day: days[(days.index(day) + 1) % 7], tokens),
    )


def _copy_if(length: int) -> Program:
    def output(tokens: SOp, indices: SOp) -> SOp:
        return sequence_map(
            lambda now, before: before if now == "copy" else now, tokens, _previous(tokens, indices), name="copied"
        )

    return Program(
        name="copy-if",
        description="the token before where the token says copy, else the token itself",
        vocabulary=("a", "b", "c", "copy"),
        length=length,
        output=output,
        judged=lambda row: range(1, len(row)),
    )


def _skip_trigram(length: int) -> Program:
    def output(tokens: SOp, indices: SOp) -> SOp:
        keys = selector_width(select(tokens, None, lambda token: token == "keep"), length, name="keeps so far")
        return sequence_map(
            lambda token, count: ("in" if count else "at") if token == "out" else "no", tokens, keys, name="answer"
        )

    return Program(
        name="skip-trigram",
        description='after "keep … out" comes in, after "out" alone comes at, after anything else comes no',
        vocabulary=("keep", "out", "a", "b"),
        length=length,
        output=output,
    )


# -- looking things up ---------------------------------------------------------------------------------------------
def _at_most_twice(vocabulary: Sequence[str], length: int) -> Iterator[Row]:
    for row in product(vocabulary, repeat=length):
        if all(row[: i + 1].count(token) <= 2 for i, token in enumerate(row)):
            yield row


def _induction(length: int) -> Program:
    vocabulary = ("a", "b", "c", "d", "e")

    def output(tokens: SOp, indices: SOp) -> SOp:
        return aggregate(select(_previous(tokens, indices), tokens, same), tokens, name="what came next")

    return Program(
        name="induction",
        description="what followed the last time that this token was seen",
        vocabulary=vocabulary,
        length=length,
        output=output,
        inputs=lambda: _at_most_twice(vocabulary, length),
        judged=lambda row: [i for i, token in enumerate(row) if token in row[:i]],
    )


def _duplicate_token(length: int) -> Program:
    def output(tokens: SOp, indices: SOp) -> SOp:
        seen = selector_width(select(tokens, tokens, same), length, name="times seen")
        return _flag(map_(lambda count: count > 1, seen), name="seen before")

    return Program(
        name="duplicate-token",
        description="whether the token was seen before",
        vocabulary=("a", "b", "c", "d"),
        length=length,
        output=output,
    )


def _ioi(length: int) -> Program:
    names = ("mary", "john", "anna", "paul", "lucy")

    def output(tokens: SOp, indices: SOp) -> SOp:
        subject = aggregate(at(indices, 3), tokens, name="who gives")
        return aggregate(select(tokens, subject, lambda key, query: key != query and key != "to"), tokens, name="other")

    return Program(
        name="ioi",
        description="two friends, one who speaks, one who gives, and to: who of the two receives",
        vocabulary=(*names, "to"),
        length=5,
        output=output,
        inputs=lambda: ((a, b, x, s, "to") for a, b in permutations(names, 2) for x in (a, b) for s in (a, b)),
        judged=lambda row: [4],
    )


def _two_hop(length: int) -> Program:
    things, boxes, places = ("ring", "coin"), ("box", "bag", "jar"), ("park", "hill", "lake")

    def output(tokens: SOp, indices: SOp) -> SOp:
        # The second word of a fact knows the first; the first word of a fact belongs to no other.
        said_of = sequence_map(
            lambda before, here: before if here % 2 else "nothing", _previous(tokens, indices), indices, name="said of"
        )
        holder = aggregate(select(said_of, tokens, same), tokens, name="holder")
        return aggregate(select(said_of, holder, same), tokens, name="place")

    def inputs() -> Iterator[Row]:
        for held, where in product(permutations(boxes, 2), permutations(places, 2)):
            facts = [(things[0], held[0]), (things[1], held[1]), (held[0], where[0]), (held[1], where[1])]
            for order in permutations(facts):
                for thing in things:
                    yield (*(word for fact in order for word in fact), thing)

    return Program(
        name="two-hop",
        description="which thing is in which box, and which box where, in any order: where the thing is",
        vocabulary=(*things, *boxes, *places),
        length=9,
        output=output,
        inputs=inputs,
        judged=lambda row: [8],
    )


# -- writing an answer after the bar -------------------------------------------------------------------------------
def _written(vocabulary: Sequence[str], longest: int, answer) -> Iterator[Row]:
    for size in range(1, longest + 1):
        for question in product(vocabulary, repeat=size):
            yield (*question, BAR, *answer(question)[:-1])


def _after_the_bar(row: Row) -> range:
    return range(row.index(BAR), len(row))


def _before_the_bar(tokens: SOp, indices: SOp) -> tuple[SOp, SOp]:
    """Place of the bar (0 before it), and the own place, as numbers."""
    place = map_(float, indices, number=True, name="place")
    return aggregate(select(tokens, None, lambda token: token == BAR), place, name="place of the bar"), place


def _reverse(length: int) -> Program:
    vocabulary = ("a", "b", "c", "d")

    def output(tokens: SOp, indices: SOp) -> SOp:
        bar, here = _before_the_bar(tokens, indices)
        source = map_(
            lambda twice: round(twice) - 1, total((2, bar), (-1, here)), domain=range(-length, length), name="source"
        )
        return aggregate(select(indices, source, same), tokens, name="reversed")

    return Program(
        name="reverse",
        description="the tokens before the bar, backwards",
        vocabulary=(*vocabulary, BAR),
        length=length,
        output=output,
        inputs=lambda: _written(vocabulary, length // 2, lambda question: question[::-1]),
        judged=_after_the_bar,
    )


def _sort(length: int) -> Program:
    letters = ("a", "b", "c")

    def output(tokens: SOp, indices: SOp) -> SOp:
        bar, here = _before_the_bar(tokens, indices)
        answers = selector_width(select(tokens, None, lambda token: token == BAR), length, name="bars so far")
        asked = sequence_map(lambda token, bars: "-" if bars else token, tokens, answers, name="in the question")
        past = []
        for letter in letters[:-1]:
            count = selector_width(
                select(asked, None, lambda one, letter=letter: one in letters and one <= letter),
                length,
                name=f"how many up to {letter}",
            )
            number = map_(float, count, number=True, name=f"how many up to {letter}, as a number")
            left = total((1, number), (1, bar), (-1, here), name=f"how many up to {letter} are still to come")
            past.append(map_(lambda left: "over" if left < 0.5 else "not yet", left, domain=("over", "not yet")))
        return sequence_map(
            lambda a, b: "a" if a == "not yet" else "b" if b == "not yet" else "c", *past, name="sorted"
        )

    return Program(
        name="sort",
        description="the tokens before the bar, in order",
        vocabulary=(*letters, BAR),
        length=length,
        output=output,
        inputs=lambda: _written(letters, length // 2, lambda question: tuple(sorted(question))),
        judged=_after_the_bar,
    )


# -- counting ------------------------------------------------------------------------------------------------------
def _count(tokens: SOp, token: str, length: int) -> SOp:
    return selector_width(select(tokens, None, lambda key: key == token), length, name=f"how many {token}")


def _histogram(length: int) -> Program:
    return Program(
        name="histogram",
        description="how often the token has been seen so far, itself included",
        vocabulary=("a", "b", "c", "d"),
        length=length,
        output=lambda tokens, indices: selector_width(select(tokens, tokens, same), length, name="times seen"),
    )


def _most_frequent(length: int) -> Program:
    def output(tokens: SOp, indices: SOp) -> SOp:
        a, b, c = (_count(tokens, token, length) for token in "abc")
        ahead = sequence_map(lambda a, b: ("a", a) if a >= b else ("b", b), a, b, name="better of a and b")
        return sequence_map(lambda best, c: best[0] if best[1] >= c else "c", ahead, c, name="most frequent")

    return Program(
        name="most-frequent",
        description="the most frequent token so far, the earlier in the alphabet where two are as frequent",
        vocabulary=("a", "b", "c"),
        length=length,
        output=output,
    )


def _proportion(length: int) -> Program:
    def output(tokens: SOp, indices: SOp) -> SOp:
        mark = map_(lambda token: float(token == "x"), tokens, number=True, name="is an x")
        return aggregate(select(tokens, None, lambda key: True), mark, name="share of x")

    return Program(
        name="proportion",
        description="the share of x among the tokens so far, as a number",
        vocabulary=("x", "a", "b"),
        length=length,
        output=output,
    )


def _majority(length: int) -> Program:
    def output(tokens: SOp, indices: SOp) -> SOp:
        vote = map_(lambda token: {"x": 1.0, "y": -1.0}.get(token, 0.0), tokens, number=True, name="vote")
        lead = aggregate(select(tokens, None, lambda key: True), vote, name="lead of x")
        return map_(
            lambda lead: "x" if lead > 0.25 else "y" if lead < -0.25 else "none", lead, domain=("x", "y", "none")
        )

    return Program(
        name="majority",
        description="which of x and y is ahead by more than a quarter of all tokens so far",
        vocabulary=("x", "y", "a"),
        length=length,
        output=output,
    )


def _parity(length: int) -> Program:
    def output(tokens: SOp, indices: SOp) -> SOp:
        return map_(lambda count: "odd" if count % 2 else "even", _count(tokens, "1", length), name="parity")

    return Program(
        name="parity",
        description="whether the ones so far are odd or even in number",
        vocabulary=("0", "1"),
        length=length,
        output=output,
    )


def _sum_modulo(length: int) -> Program:
    def output(tokens: SOp, indices: SOp) -> SOp:
        ones, twos = _count(tokens, "1", length), _count(tokens, "2", length)
        return sequence_map(lambda one, two: (one + 2 * two) % 3, ones, twos, name="sum modulo 3")

    return Program(
        name="sum-modulo",
        description="the sum of all digits so far, modulo 3",
        vocabulary=("0", "1", "2"),
        length=length,
        output=output,
    )


def _addition(length: int) -> Program:
    digits = tuple(map(str, range(7)))

    def output(tokens: SOp, indices: SOp) -> SOp:
        return sequence_map(
            lambda a, b: (int(a) + int(b)) % 7, tokens, aggregate(at(indices, 0), tokens, name="first"), name="sum"
        )

    return Program(
        name="addition-modulo",
        description="the sum of two digits, modulo 7",
        vocabulary=digits,
        length=2,
        output=output,
        judged=lambda row: [1],
    )


def _greater_than(length: int) -> Program:
    years = tuple(f"{year:02}" for year in range(8))

    def output(tokens: SOp, indices: SOp) -> SOp:
        return aggregate(at(indices, 0), tokens, name="start")

    return Program(
        name="greater-than",
        description="every year after the first one",
        vocabulary=(*years, "to"),
        length=2,
        output=output,
        inputs=lambda: ((year, "to") for year in years),
        judged=lambda row: [1],
        writes=lambda value: tuple(year for year in years if value != "to" and year > value),
    )


# -- brackets ------------------------------------------------------------------------------------------------------
def _bracket_depth(length: int) -> Program:
    def output(tokens: SOp, indices: SOp) -> SOp:
        opened, closed = _count(tokens, "(", length), _count(tokens, ")", length)
        return sequence_map(lambda a, b: max(a - b, 0), opened, closed, name="depth")

    return Program(
        name="bracket-depth",
        description="how many brackets are open (0 where more were closed)",
        vocabulary=("(", ")", "a"),
        length=length,
        output=output,
    )


def _shuffled_dyck(length: int) -> Program:
    def output(tokens: SOp, indices: SOp) -> SOp:
        balance = []
        for opens, closes in ("()", "[]"):
            opened, closed = _count(tokens, opens, length), _count(tokens, closes, length)
            sign = sequence_map(
                lambda a, b: "below" if a < b else "above" if a > b else "level",
                opened,
                closed,
                name=f"sign of {opens}",
            )
            below = selector_width(select(sign, None, lambda one: one == "below"), length, name=f"times below {opens}")
            good = sequence_map(
                lambda sign, below: sign == "level" and not below, sign, below, name=f"balanced {opens}"
            )
            balance.append(good)
        return sequence_map(lambda a, b: "yes" if a and b else "no", *balance, name="balanced")

    return Program(
        name="shuffled-dyck",
        description="whether the brackets so far are balanced, each of two kinds for itself",
        vocabulary=("(", ")", "[", "]"),
        length=length,
        output=output,
    )


# -- what methods are known to get wrong ---------------------------------------------------------------------------
def _two_bits(name: str, description: str, function) -> Program:
    def output(tokens: SOp, indices: SOp) -> SOp:
        bits = [aggregate(at(indices, i), tokens, name=f"bit {i}") for i in range(2)]
        return sequence_map(lambda a, b: "1" if function(a == "1", b == "1") else "0", *bits, name=name)

    bits = ("0", "1")
    return Program(
        name=name,
        description=description,
        vocabulary=(*bits, "="),
        length=3,
        output=output,
        inputs=lambda: ((a, b, "=") for a in bits for b in bits),
        judged=lambda row: [2],
    )


def _either(length: int) -> Program:
    return _two_bits("either", "the OR of two bits: one path is enough, so to cut one often changes nothing", max)


def _both(length: int) -> Program:
    return _two_bits("both", "the AND of two bits: one path is not enough", min)


def _cancelling(length: int) -> Program:
    def output(tokens: SOp, indices: SOp) -> SOp:
        bit = map_(lambda token: float(token == "1"), tokens, number=True, name="bit")
        one, other, third = (aggregate(at(indices, i), bit, name=f"path {n}") for n, i in enumerate((0, 0, 1)))
        whole = total((1, one), (-1, other), (1, third), name="sum of three paths")
        return map_(lambda value: "1" if value > 0.5 else "0", whole, domain=("0", "1"), name="answer")

    bits = ("0", "1")
    return Program(
        name="cancelling",
        description="the second bit; two more paths carry the first bit and cancel each other",
        vocabulary=(*bits, "="),
        length=3,
        output=output,
        inputs=lambda: ((a, b, "=") for a in bits for b in bits),
        judged=lambda row: [2],
    )


_MAKERS = {
    "same-token": (_same_token, 6),
    "successor": (_successor, 4),
    "previous-token": (_previous_token, 6),
    "first-token": (_first_token, 6),
    "copy-if": (_copy_if, 6),
    "skip-trigram": (_skip_trigram, 6),
    "duplicate-token": (_duplicate_token, 6),
    "induction": (_induction, 6),
    "ioi": (_ioi, 5),
    "two-hop": (_two_hop, 9),
    "reverse": (_reverse, 10),
    "sort": (_sort, 10),
    "histogram": (_histogram, 6),
    "most-frequent": (_most_frequent, 8),
    "proportion": (_proportion, 8),
    "majority": (_majority, 8),
    "parity": (_parity, 12),
    "sum-modulo": (_sum_modulo, 8),
    "addition-modulo": (_addition, 2),
    "greater-than": (_greater_than, 2),
    "bracket-depth": (_bracket_depth, 8),
    "shuffled-dyck": (_shuffled_dyck, 6),
    "either": (_either, 3),
    "both": (_both, 3),
    "cancelling": (_cancelling, 3),
}
PROGRAMS = tuple(_MAKERS)
"""Names of the programs, from the simplest on."""


def program(name: str, *, length: int | None = None) -> Program:
    """A program of the library.

    Args:
        name: One of `PROGRAMS`.
        length: Its longest input; its own if None. Programs of one fixed length take no other.

    Raises:
        BadInput: There is no such program, or it cannot have that length.
    """
    if name not in _MAKERS:
        raise BadInput(explain(f"There is no program {name!r}", possible=PROGRAMS, near=name))
    make, own = _MAKERS[name]
    made = make(own if length is None else length)
    if length is not None and (made.length != length or length < 1):
        raise BadInput(explain(f"The program {name} has inputs of {made.length} tokens", found=f"length={length}"))
    return made
