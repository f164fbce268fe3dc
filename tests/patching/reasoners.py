"""Compiled models that answer a question at the end of a worked text, each in a known way, and texts for them."""

from functools import lru_cache
from itertools import product

from digsite.tasks import Chain, chain_task
from digsite.toys.compiled import Program, aggregate, compile_program, map_, select

ASKED, WORK, ANSWERS, CUE = ("p", "q", "r", "s"), ("u", "v", "w"), ("a", "b", "c", "d"), "="
SOLUTION = dict(zip(ASKED, ANSWERS, strict=True))


def _answer(token):
    return SOLUTION.get(token, token if token in ANSWERS else "a")


def _token_at(place):
    def output(tokens, indices):
        return map_(_answer, aggregate(select(indices, None, lambda index: index == place), tokens))

    return output


def _hidden(tokens, indices):
    """The second position knows the answer without saying it, and the last one asks there."""
    solved = map_(_answer, aggregate(select(indices, None, lambda index: index == 0), tokens), name="solved")
    return aggregate(select(indices, None, lambda index: index == 1), solved)


PROGRAMS = {"copies": _token_at(2), "computes": _token_at(0), "hides": _hidden}


@lru_cache
def reasoner(name):
    """A model of texts "question, work, stated answer, cue" that ends in an answer."""
    return compile_program(
        Program(
            name=name,
            description="the answer to the question in front",
            vocabulary=(*ASKED, *WORK, *ANSWERS, CUE),
            length=5,
            output=PROGRAMS[name],
            inputs=lambda: ((*row, CUE) for row in product(ASKED, WORK, ANSWERS)),
            judged=lambda row: [3],
        )
    ).model


def chain(model, asked, work="u", stated=None, answer=None):
    """A text for a reasoner; it states and gives the right answer unless told otherwise."""
    stated, answer = stated or SOLUTION[asked], answer or SOLUTION[asked]
    steps = {"question": asked, "work": f" {work}", "stated answer": f" {stated}", "cue": f" {CUE}"}
    return Chain.of(model, steps, f" {answer}")


def reasoning_task(model, **more):
    """Pairs of questions with the right answers, in texts of other work."""
    pairs = [(a, b, w) for a in ASKED for b in ASKED for w in WORK if a != b]
    return chain_task(
        model, [chain(model, a, w) for a, _, w in pairs], [chain(model, b, w) for _, b, w in pairs], **more
    )
