"""The figures of toys show their curves, and the phase diagram its exceptions."""

from typing import Any

import pytest
import torch
from drawn import collisions, outside, texts

from digsite._core.cost import Cost
from digsite._core.errors import Unsupported
from digsite._core.provenance import record
from digsite.artifacts import load_result
from digsite.toys.trained.claims import at_least, findings
from digsite.toys.trained.superposition import SuperpositionResult
from digsite.toys.trained.superposition_dimension import SuperpositionVersusDimension

MADE: dict[str, Any] = {"provenance": record("digsite toys train toy", seed=0), "cost": Cost()}


def found(curves):
    return findings("toy", [at_least("answered", 1.0, 0.9)], curves, seed=0, cost=Cost())


def test_curves_of_the_same_places_are_drawn_by_their_largest_value():
    steps = list(range(1, 61))
    curves = {"loss": (steps, [4.0] + [1.0] * 59), "score": (steps, [0.5] * 60), "by number": ([1, 2], [1, 2])}
    figure = found(curves).figure()
    assert {"loss, by 4", "score, by 0.50", "toy: each curve by its largest value", "steps"} <= set(texts(figure))
    assert set(figure.data["line"]) == {"loss, by 4", "score, by 0.50"} and len(figure.data) == 32
    assert figure.data["value"].max() == 1 and figure.data["steps"][0] == "1" and figure.data["steps"][15] == "60"
    assert not collisions(figure) and not outside(figure)
    assert figure.caption == "toy: 1 of 1 known answers were found again."


def test_one_curve_keeps_its_values():
    figure = found({"loss over steps": ([10, 20], [4.0, 2.0])}).figure()
    assert figure.data["value"].to_list() == [4.0, 2.0] and figure.title == "toy: loss over steps"


def test_findings_without_curves_are_a_table():
    result = found({})
    with pytest.raises(Unsupported, match="findings of toy have no curve"):
        result.figure()
    assert "answered" in result._repr_html_()


def test_the_phase_diagram_outlines_what_the_integrals_do_not_say():
    phase = torch.tensor([[0, 1], [1, 2]])
    result = SuperpositionResult(
        **dict.fromkeys(("pentagon_density", "together", "share_density", "per_feature"), torch.rand(3)),
        pentagon=torch.rand(3, 5, 2),
        phase_density=torch.tensor([1.0, 0.1]),
        phase_importance=torch.tensor([0.5, 2.0]),
        phase=phase,
        phase_known=torch.tensor([[0, 1], [1, 1]]),
        share=torch.rand(3, 4),
        findings=found({}),
        **MADE,
    )
    figure = result.figure()
    assert figure.data["value"].to_list() == [0, 0.5, 0.5, 1]
    assert "other than the integrals say" in texts(figure) and "+1.00" in texts(figure)


def test_dimension_against_sparsity():
    grid = torch.rand(3, 2)
    result = SuperpositionVersusDimension(
        dimensions=(4, 8, 16),
        densities=(1.0, 0.1),
        **dict.fromkeys(("error_random", "error_learned", "heard", "heard_known"), grid),
        error_kept=torch.tensor([0.9, 0.8, 0.7]),
        findings=found({}),
        **MADE,
    )
    figure = result.figure()
    assert figure.data.filter(line="keeping 8")["value"].to_list() == pytest.approx([0.8, 0.8])
    assert figure.data.filter(line="learned directions")["value"].to_list() == pytest.approx(grid[1].tolist())


@pytest.mark.slow
def test_findings_are_read_back_in_a_process_that_trains_nothing(tmp_path):
    import subprocess
    import sys

    found({"loss over steps": ([1, 2], [2.0, 1.0])}).save(tmp_path / "findings")
    code = f"import digsite; print(digsite.load_result({str(tmp_path / 'findings')!r}).verdict)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "toy: 1 of 1 known answers were found again\n"
    assert load_result(tmp_path / "findings").verdict in done.stdout
