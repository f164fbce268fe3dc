"""Growth: compiled programs of growing length have circuits of known size, and a fixed program does not grow."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import stats

from digsite._core.errors import BadInput
from digsite.circuits import SizeOverScale, eap, eap_ig, size_over_scale
from digsite.toys.compiled import compile_program
from digsite.toys.compiled.library import program
from digsite.toys.compiled.library.moving import previous
from digsite.toys.compiled.program import Program


def relay(hops):
    """The token some places back, passed on from head to head."""

    def output(tokens, indices):
        found = tokens
        for _ in range(hops):
            found = previous(found, indices)
        return found

    return Program(
        name=f"relay-{hops}",
        description=f"the token {hops} back",
        vocabulary=("a", "b"),
        length=hops + 2,
        output=output,
        judged=lambda row: range(hops, len(row)),
    )


@pytest.fixture(scope="module")
def relays():
    return {made.model.name: made for made in (compile_program(relay(hops)) for hops in (1, 2, 3))}


def grown(known, *, find=eap_ig, how="corrupt"):
    models = [made.model for made in known.values()]
    return size_over_scale(
        models, lambda model: known[model.name].task(12), share=0.99, find=find, how=how, random_circuits=1
    )


def test_sizes_are_those_that_were_put_there(relays):
    """With zeros all 3 h + 1 edges count; corrupt prompts share their positions, so h + 1 are left."""

    def exact(model, task):
        scores = eap(model, task)
        known, cut = relays[model.name], torch.zeros_like(scores.mean())
        for edge, effect in zip(known.all_edges, known.cut(known.all_edges).tolist(), strict=True):
            cut[scores.space.index(edge)] = effect
        return replace(scores, method="one edge cut at a time", scores=cut.expand(len(task), 1, -1, -1).clone())

    zeros = grown(relays, find=exact, how="zero")
    assert zeros.sizes.tolist() == [len(known.edges) for known in relays.values()] == [4, 7, 10]
    corrupt = grown(relays)
    assert corrupt.sizes.tolist() == [2, 3, 4] and corrupt.nodes.tolist() == [1, 2, 3]
    assert (corrupt.random >= 2 * corrupt.sizes).all()
    line: Any = stats.linregress(corrupt.parameters.double().log(), corrupt.sizes.double().log())
    assert corrupt.exponent == pytest.approx(line.slope)
    low, high = corrupt.exponent_interval
    assert low == pytest.approx(line.slope - stats.t.ppf(0.975, 1) * line.stderr)  # the sizes hang on no example
    assert low <= corrupt.exponent <= high and ("no growth" in corrupt.verdict) == (low <= 0)


def test_a_program_that_stays_the_same_does_not_grow(tmp_path):
    known = {}
    for length in (3, 4, 6):
        made = compile_program(replace(program("previous-token"), length=length, vocabulary=("a", "b")))
        made.model.name += f" of {length}"
        known[made.model.name] = made
    found = grown(known)
    assert found.sizes.tolist() == [2, 2, 2] and found.exponent == pytest.approx(0.0, abs=1e-9)
    assert "that includes no growth" in found.verdict
    assert SizeOverScale.load(found.save(tmp_path / "scale")).verdict == found.verdict


def test_bad_input(relays):
    known = dict(list(relays.items())[:1])
    with pytest.raises(BadInput, match="two models or more"):
        grown(known)
    with pytest.raises(BadInput, match="A circuit keeps a share"):
        size_over_scale([], lambda model: known[model.name].task(12), share=1.0)
    with pytest.raises(BadInput, match="Half of the examples"):
        size_over_scale([made.model for made in known.values()], lambda model: known[model.name].task(3))
