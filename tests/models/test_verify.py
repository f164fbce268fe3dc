"""A model that would be read wrongly is refused, by the contract that says how; one that passed is not asked again."""

import json
from dataclasses import replace

import pytest
import torch

import digsite
from architectures import CONFIGS, REFUSED, UNKNOWN, randomised, tiny
from digsite._core.cost import measure
from digsite._core.errors import ContractBroken
from digsite.models import verdicts
from digsite.models._adapters.layouts import PER_HEAD, THIRDS, Layout
from digsite.models._adapters.table import ARCHITECTURES
from digsite.models.anatomy import Stage
from digsite.models.contracts import MEANING, Contract
from digsite.models.load import wrap
from digsite.models.tokens import grid


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIGSITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "contracts.json"


def wrapped(name, dtype=torch.float32):
    return wrap(tiny(name, dtype), None, name=name, revision=None, attention="eager")


def broken(model):
    return {contract.name for contract in model.verify().failed}


def entered(monkeypatch, name, **changes):
    """The model with an entry of the table that is wrong."""
    kind = tiny(name).config.get_text_config().model_type
    entry = ARCHITECTURES[kind]
    right = entry(tiny(name).config) if callable(entry) else entry
    monkeypatch.setitem(ARCHITECTURES, kind, replace(right, **changes))
    return wrapped(name)


def interchanged(layout, *order):
    """A layout that takes the parts of a fused projection for one another."""
    return Layout(
        "wrong",
        lambda x, heads: tuple(layout.split(x, heads)[i] for i in order),
        lambda parts, heads: layout.merge(tuple(parts[order.index(i)] for i in range(3)), heads),
    )


# -- what is caught ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "layout"), [("gpt2", THIRDS), ("gpt_neox", PER_HEAD), ("bloom", PER_HEAD)])
def test_queries_taken_for_keys_are_found(monkeypatch, name, layout):
    model = entered(monkeypatch, name, layout=interchanged(layout, 1, 0, 2))
    assert broken(model) == {"meeting"}
    with pytest.raises(ContractBroken, match=r"meeting in layer 0.*attn\.k is what meets as attn\.q_rot"):
        digsite.load(tiny(name))


@pytest.mark.parametrize(
    ("name", "changes", "contract"),
    [
        ("gpt2", {"layout": interchanged(THIRDS, 0, 2, 1)}, "mixing"),
        ("gpt2", {"layout": PER_HEAD}, "mixing"),
        ("granite", {"multiplier": None}, "stream"),
        ("granite", {"embed_multiplier": None}, "embedding"),
        ("bloom", {"embed_out": None}, "embedding"),
        ("bloom", {"mlp_out": "mlp"}, "stream"),
        ("gpt_neox", {"parallel": False}, "middle"),
        ("glm4", {"mlp_out": None}, "stream"),
        ("glm4", {"attn_out": None}, "middle"),
        ("llama", {"gate": "mlp.up_proj", "up": "mlp.gate_proj"}, "neurons"),
        ("phi3", {"gate_up": None, "up": "mlp.gate_up_proj"}, "fires"),
        ("llama", {"norm1": "post_attention_layernorm"}, "norms"),
        ("gemma2", {"norm2": "post_attention_layernorm"}, "middle"),
        ("llama", {"final_norm": None}, "readout"),
        ("qwen3", {"q": "k_proj", "k": "q_proj"}, "meeting"),
        ("olmo2", {"q": "v_proj", "v": "q_proj"}, "fires"),
        ("stablelm_parallel", {"k": "v_proj", "v": "k_proj"}, "mixing"),
    ],
)
def test_a_wrong_entry_breaks_a_contract(monkeypatch, name, changes, contract):
    assert contract in broken(entered(monkeypatch, name, **changes))


def test_a_site_whose_edits_do_nothing_is_found():
    model = wrapped("llama")
    key = (0, "attn.z")

    def deaf(visit, raw):
        visit(key, raw.unflatten(-1, (4, -1)))
        return raw

    model.anatomy.stages[key] = Stage(key, model.anatomy.stages[key].module, "in", deaf)
    failed = model.verify().failed
    assert {contract.name for contract in failed} == {"causal"}
    assert failed[0].note == "editing layers.0.attn.z does not change a logit"


def test_a_part_that_is_dead_in_these_weights_is_no_fault_of_the_architecture():
    hf = tiny("llama")
    with torch.no_grad():
        hf.model.layers[0].self_attn.k_proj.weight.zero_()
    failed = digsite.load(hf, verify=False).verify().failed
    assert "editing layers.0.attn.q does not change a logit" in [contract.note for contract in failed]
    digsite.load(hf)
    assert not hf.model.layers[0].self_attn.k_proj.weight.any()


def test_a_site_whose_edits_reach_back_is_found():
    model = wrapped("llama")
    key = (0, "mlp.out")

    def everywhere(visit, raw):
        kept = visit(key, raw.view_as(raw))
        return raw + (kept - raw).mean(1, keepdim=True)

    model.anatomy.stages[key] = Stage(key, model.anatomy.stages[key].module, "out", everywhere)
    assert "causal" in broken(model)


def test_a_reading_that_changes_the_model_is_found():
    model = wrapped("llama")
    key = (1, "mlp.out")

    def clumsy(visit, raw):
        return visit(key, raw.view_as(raw)) * (1 + 1e-6)

    model.anatomy.stages[key] = Stage(key, model.anatomy.stages[key].module, "out", clumsy)
    assert {"reads", "writes"} <= broken(model)


def test_not_a_number_is_no_agreement():
    assert not Contract("stream", 0, float("nan"), 1.0).passed
    assert Contract("stream", 0, None).passed


# -- architectures without an entry --------------------------------------------------------------------------------
@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_architecture_that_keeps_every_contract_is_accepted(name):
    model = digsite.load(tiny(name))
    assert not model.anatomy.in_table
    assert model.run(grid([[5, 6, 7]]), read=["layers.1.attn.z"])["layers.1.attn.z"].shape == (1, 3, 4, 16)


@pytest.mark.parametrize("name", REFUSED)
def test_an_unknown_architecture_that_breaks_one_is_refused(name, cache):
    with pytest.raises(ContractBroken, match=f"{REFUSED[name][1]} in layer .* is allowed") as caught:
        digsite.load(tiny(name))
    assert f"digsite has no entry for {name} and tried Llama's layout" in str(caught.value)
    assert MEANING[REFUSED[name][1]] in str(caught.value)
    assert "load(..., verify=False)" in str(caught.value)
    assert not cache.exists(), "a failure is never remembered"
    assert digsite.load(tiny(name), verify=False).n_layers == 3


def test_glm4_would_be_refused_without_its_entry(monkeypatch):
    monkeypatch.delitem(ARCHITECTURES, "glm4")
    with pytest.raises(ContractBroken, match="has no entry for glm4"):
        digsite.load(tiny("glm4"))


# -- the verdict ---------------------------------------------------------------------------------------------------
def test_a_verdict_is_kept_with_what_must_be_snapshotted(cache):
    first = digsite.load(tiny("falcon"))
    assert (1, "mlp.out") in first.snapshots
    assert list(json.loads(cache.read_text()).values()) == [{"snapshots": ["mlp.out"]}]
    with measure() as cost:
        second = digsite.load(tiny("falcon"))
    assert cost.forwards == 0, "a known verdict costs no pass"
    assert second.snapshots == first.snapshots
    tokens = grid([[5, 6, 7, 8]])
    run = second.run(tokens, read=[site for site in second.sites if site.layer == 1])
    total = sum(run[f"layers.1.{part}"] for part in ("resid_pre", "attn.out", "mlp.out"))
    torch.testing.assert_close(total, run["layers.1.resid_post"])


def test_a_verdict_is_for_a_kind_of_model_and_not_for_its_size():
    def key(name, dtype=torch.float32, attention="eager", **changes):
        config = CONFIGS[name]()
        for field, value in changes.items():
            setattr(config, field, value)
        return verdicts.key(wrap(randomised(config, dtype), None, name="x", revision=None, attention=attention))

    base = key("llama")
    assert key("llama", num_hidden_layers=2, vocab_size=50, intermediate_size=32, _name_or_path="elsewhere") == base
    others = [
        key("llama", torch.bfloat16),
        key("llama", attention="sdpa"),
        key("llama", attention_bias=True),
        key("mistral"),
        key("gpt_neox"),
        key("gpt_neox_sequential"),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_a_verdict_is_for_these_versions(monkeypatch):
    model = wrapped("llama")
    keys = [verdicts.key(model)]
    for module in (verdicts.torch, verdicts.transformers, verdicts):
        monkeypatch.setattr(module, "__version__", "0.0.1")
        keys.append(verdicts.key(model))
    monkeypatch.setattr(model.anatomy, "arch", replace(model.anatomy.arch, o="other"))
    keys.append(verdicts.key(model))
    assert len(set(keys)) == 5


def test_a_damaged_or_unwritable_cache_only_costs_time(cache, monkeypatch, tmp_path):
    cache.parent.mkdir()
    for damaged in ("{", "[]", '{"a": 1}', ""):
        cache.write_text(damaged)
        digsite.load(tiny("llama"))
        assert {"snapshots": []} in json.loads(cache.read_text()).values()
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("DIGSITE_CACHE", str(file / "below"))
    assert digsite.load(tiny("llama")).n_layers == 3


def test_where_verdicts_are_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("DIGSITE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    verdicts.remember("k", ["mlp.out"])
    kept = json.loads((tmp_path / "xdg" / "digsite" / "contracts.json").read_text())
    assert kept == {"k": {"snapshots": ["mlp.out"]}}
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert verdicts.passed("k") is None
    verdicts.remember("j", [])
    assert (tmp_path / "home" / ".cache" / "digsite" / "contracts.json").is_file()
    assert verdicts.passed("j") == []


def test_a_run_before_any_verdict_says_what_to_do():
    model = wrapped("falcon")
    tokens = grid([[5, 6, 7]])
    with pytest.raises(ContractBroken, match=r"overwrote layers\.0\.mlp\.out in place") as caught:
        model.run(tokens, read=["layers.0.mlp.out"])
    assert "run model.verify(), which finds such sites" in str(caught.value)
    model.verify()
    model.run(tokens, read=["layers.0.mlp.out"])


# -- what it costs and shows ---------------------------------------------------------------------------------------
def test_a_few_passes_are_enough():
    model = wrapped("gpt_neo")
    passes = []
    model.hf.register_forward_hook(lambda module, args, output: passes.append(output.logits.shape[0]))
    found = model.verify()
    assert len(passes) == 7
    assert max(passes) < 64
    looked_at = {contract.layer for contract in found.contracts if contract.name == "stream"}
    assert looked_at == {0, 1, 2, 3}, "ends, middle and one of every kind: global and local"


def test_the_table_says_each_contract_with_its_numbers(monkeypatch):
    shown = repr(wrapped("gpt_oss").verify())
    assert "gpt_oss keeps every contract" in shown
    for name in MEANING:
        assert f" {name} " in shown
    assert "does not apply: its neurons are spread over experts" in shown
    assert max(map(len, shown.splitlines())) <= 110
    shown = repr(entered(monkeypatch, "granite", multiplier=None).verify())
    assert "granite breaks 2 contracts" in shown
    assert "BROKEN: resid_pre + attn.out + mlp.out is not resid_post" in " ".join(shown.split())
    shown = repr(wrapped("falcon").verify())
    assert "copied when read, because the model overwrites them: mlp.out" in " ".join(shown.split())
