"""Every program of the library gives what an independent few lines of Python give, on all of its inputs."""

from collections import Counter
from fractions import Fraction
from itertools import accumulate, pairwise

import pytest

from digsite._core.errors import BadInput
from digsite.toys.compiled import PROGRAMS, program

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def prefixes(row):
    return [row[: i + 1] for i in range(len(row))]


def induction(row):
    found = []
    for i, token in enumerate(row):
        before = [j for j in range(i) if row[j] == token]
        found.append(row[before[-1] + 1] if before else None)
    return found


def two_hop(row):
    facts = dict(zip(row[:8:2], row[1:8:2], strict=True))
    return [*[None] * 8, facts[facts[row[8]]]]


def after_the_bar(change):
    def run(row):
        bar = row.index("|")
        answer = change(row[:bar])
        return [*[None] * bar, *answer[: len(row) - bar]]

    return run


def most_frequent(row):
    return [max("abc", key=lambda letter: (seen.count(letter), -ord(letter))) for seen in prefixes(row)]


def depth(row, opens, closes):
    return list(accumulate((token == opens) - (token == closes) for token in row))


def balanced(row):
    both = [depth(row, *pair) for pair in ("()", "[]")]
    return ["yes" if all(d[i] == 0 and min(d[: i + 1]) >= 0 for d in both) else "no" for i in range(len(row))]


def majority(row):
    leads = accumulate({"x": 1, "y": -1}.get(token, 0) for token in row)
    return ["x" if 4 * lead > i + 1 else "y" if 4 * lead < -i - 1 else "none" for i, lead in enumerate(leads)]


REFERENCE = {
    "same-token": list,
    "successor": lambda row: [DAYS[(DAYS.index(day) + 1) % 7] for day in row],
    "previous-token": lambda row: [None, *row[:-1]],
    "first-token": lambda row: [row[0]] * len(row),
    "copy-if": lambda row: [None, *(a if b == "copy" else b for a, b in pairwise(row))],
    "skip-trigram": lambda row: [
        ("in" if "keep" in seen else "at") if seen[-1] == "out" else "no" for seen in prefixes(row)
    ],
    "duplicate-token": lambda row: ["yes" if seen[-1] in seen[:-1] else "no" for seen in prefixes(row)],
    "induction": induction,
    "ioi": lambda row: [None] * 4 + [row[0] if row[3] == row[1] else row[1]],
    "two-hop": two_hop,
    "reverse": after_the_bar(lambda question: question[::-1]),
    "sort": after_the_bar(sorted),
    "histogram": lambda row: [Counter(seen)[seen[-1]] for seen in prefixes(row)],
    "most-frequent": most_frequent,
    "proportion": lambda row: [float(Fraction(seen.count("x"), len(seen))) for seen in prefixes(row)],
    "majority": majority,
    "parity": lambda row: ["odd" if seen.count("1") % 2 else "even" for seen in prefixes(row)],
    "sum-modulo": lambda row: [total % 3 for total in accumulate(map(int, row))],
    "addition-modulo": lambda row: [None, (int(row[0]) + int(row[-1])) % 7],
    "greater-than": lambda row: [None, row[0]],
    "bracket-depth": lambda row: [max(0, d) for d in depth(row, "(", ")")],
    "shuffled-dyck": balanced,
    "either": lambda row: [None, None, str(int("1" in row[:2]))],
    "both": lambda row: [None, None, str(int(row[0] == row[1] == "1"))],
    "cancelling": lambda row: [None, None, row[1]],
}


def test_every_program_has_a_reference():
    assert set(REFERENCE) == set(PROGRAMS)
    assert len(PROGRAMS) >= 20


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_what_it_says(name):
    one = program(name)
    assert one.exhaustive
    rows = one.rows[:: max(1, len(one.rows) // 2000)]
    where = one.asked[:: max(1, len(one.rows) // 2000)]
    for row, found, asked in zip(rows, one.run(rows), where, strict=True):
        wanted = REFERENCE[name](row)
        for i in range(len(row)):
            if asked[i]:
                assert found[i] == (pytest.approx(wanted[i]) if isinstance(wanted[i], float) else wanted[i]), (row, i)


def test_the_year_is_every_later_one():
    one = program("greater-than")
    assert one.written("05") == ("06", "07")


def test_lengths():
    assert max(map(len, program("reverse", length=6).rows)) == 6
    assert len(program("parity", length=3).rows) == 8
    with pytest.raises(BadInput, match="The program ioi has inputs of 5 tokens"):
        program("ioi", length=7)
    with pytest.raises(BadInput, match=r"no program 'revers'.\nPossible: did you mean reverse\?"):
        program("revers")


def test_rows_that_a_program_cannot_be_given():
    one = program("parity", length=3)
    with pytest.raises(BadInput, match=r"parity cannot be given these rows.\nFound: tokens 7"):
        one.run([("0", "7")])
    with pytest.raises(BadInput, match="Found: 4 to 4 tokens"):
        one.run([("0", "1", "0", "1")])
