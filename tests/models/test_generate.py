"""Generation with a KV cache says what the same model says without one, edits and reads included."""

import os
from pathlib import Path

import pytest
import torch
import transformers

from architectures import CONFIGS, randomised, tiny

ROWS = [[5, 9, 14, 33, 60, 2, 7], [8, 3, 3], [70, 12, 40, 41, 42]]
SEVERAL = ["gpt2", "gpt_neo", "opt", "bloom", "falcon", "mpt", "llama", "mistral_sliding", "gemma2", "gpt_oss", "phi3"]
NEW = 6


def loaded(name):
    import digsite

    model = digsite.load(tiny(name), verify=False)
    if name.startswith("falcon"):  # it adds attention's output to the MLP's in place
        model.snapshots = frozenset((layer, "mlp.out") for layer in range(model.n_layers))
    return model


def prompts(rows=ROWS):
    from digsite.models.tokens import grid

    return grid(rows)


def changes(model, length):
    """Edits at absolute and open positions, for a prompt of this many tokens."""
    import digsite

    def has(site):
        return any(one.name == site for one in model.sites)

    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(3))
    edits = [
        digsite.add("layers.1.resid_post", 4 * direction, at=slice(4, None)),
        digsite.scale("layers.0.mlp.out", -2.0, at=1),
        digsite.scale("layers.1.attn.z[1]", -2.0, at=length - 1),
        digsite.scale("layers.2.attn.v[0]", -2.0),
    ]
    if has("attn.k_rot"):
        edits.append(digsite.scale("layers.1.attn.k_rot", -1.5, at=slice(1, 3)))
    if has("attn.pattern"):
        edits.append(digsite.scale("layers.2.attn.pattern[2]", 0.0, at=slice(2, None)))
    return edits


def without_cache(model, row, new, edits):
    ids, logits = list(row), []
    for _ in range(new):
        logits.append(model.run(torch.tensor([ids]), edits=edits).logits[0, -1])
        ids.append(int(logits[-1].argmax()))
    return ids[len(row) :], torch.stack(logits)


@pytest.mark.parametrize("name", SEVERAL)
def test_the_cache_changes_nothing_with_edits(name):
    model = loaded(name)
    for row in ROWS:
        edits = changes(model, len(row))
        made = model.generate(prompts([row]), max_new_tokens=NEW, stop_at=None, edits=edits, logits=True)
        ids, logits = without_cache(model, row, NEW, edits)
        assert made.generated == [ids]
        torch.testing.assert_close(made.logits[0], logits, rtol=1e-4, atol=1e-4)
        plain = model.generate(prompts([row]), max_new_tokens=NEW, stop_at=None, logits=True)
        assert (plain.logits - made.logits).abs().max() > 1e-2


@pytest.mark.parametrize("name", SEVERAL)
def test_padded_batches_say_what_single_rows_say(name):
    import digsite

    model = loaded(name)
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(3))
    edits = [
        digsite.add("layers.1.resid_post", 3 * direction, at=-1),
        digsite.scale("layers.0.mlp.out", -2.0, at=slice(-2, None)),
        digsite.scale("layers.2.mlp.out", 0.5, at=[0, -2]),
        digsite.scale("layers.2.attn.z[0]", 3.0, at=slice(4, 9)),
        digsite.scale("layers.1.attn.z[1]", 3.0, rows=(0, 2)),
    ]
    together = model.generate(prompts(), max_new_tokens=NEW, stop_at=None, edits=edits, logits=True)
    for i, row in enumerate(ROWS):
        own = edits if i != 1 else edits[:-1]
        own = [edit if edit.rows is None else digsite.scale(edit.site, 3.0) for edit in own]
        alone = model.generate(prompts([row]), max_new_tokens=NEW, stop_at=None, edits=own, logits=True)
        assert together.generated[i] == alone.generated[0]
        torch.testing.assert_close(together.logits[i], alone.logits[0], rtol=1e-4, atol=1e-4)
        absolute = [
            digsite.add("layers.1.resid_post", 3 * direction, at=len(row) - 1),
            digsite.scale("layers.0.mlp.out", -2.0, at=slice(len(row) - 2, None)),
            digsite.scale("layers.2.mlp.out", 0.5, at=[0, len(row) - 2]),
        ]
        settled = model.generate(prompts([row]), max_new_tokens=NEW, stop_at=None, edits=[*absolute, *own[3:]])
        assert settled.generated == alone.generated


@pytest.mark.parametrize("name", [*SEVERAL, "gemma3", "qwen3", "olmo2", "gptj", "deepseek_v3", "mixtral"])
def test_reads_are_those_of_one_pass_over_the_final_rows(name):
    model = loaded(name)
    sites = [site for site in model.sites if not (name.startswith("opt") and site.name.endswith("norm.scale"))]
    made = model.generate(prompts(), max_new_tokens=NEW, stop_at=None, read=sites)
    full = model.run(made.run.tokens, read=sites)
    mask = made.run.tokens.mask
    assert made.run.tokens.ids.shape[1] == made.tokens.ids.shape[1] - 1
    for site in sites:
        ours, theirs = made[site], full[site]
        assert ours.shape == theirs.shape, site
        if site.name == "attn.scores":
            # A constant may be added to a query's scores (linear biases do it), and where nobody looked it is -inf.
            seen = torch.isfinite(ours) & (theirs > -1e30) & mask[:, None, :, None] & mask[:, None, None, :]
            own = [x - x.diagonal(dim1=-2, dim2=-1)[..., None] for x in (ours, theirs)]
            ours, theirs = (x[seen] for x in own)
        elif site.name == "attn.pattern":
            ours, theirs = (x.movedim(1, 2)[mask] for x in (ours, theirs))
        else:
            ours, theirs = ours[mask], theirs[mask]
        scale = max(1.0, float(theirs.abs().max()))
        assert (ours - theirs).abs().max() / scale < 1e-5, site


def test_heads_and_the_widths_of_patterns():
    model = loaded("mistral_sliding")
    read = ["layers.1.attn.pattern[2]", "layers.1.attn.scores", "layers.*.attn.k_rot[1]", "layers.1.attn.q_in[3]"]
    made = model.generate(prompts(), max_new_tokens=NEW, stop_at=None, read=read)
    full = model.run(made.run.tokens, read=read)
    columns = 7 + NEW - 1
    assert made["layers.1.attn.pattern[2]"].shape == (3, columns, columns)
    assert made["layers.*.attn.k_rot[1]"].shape == (3, 3, columns, 16)
    mask = made.run.tokens.mask
    for site in (read[0], read[3]):
        torch.testing.assert_close(made[site][mask], full[site][mask], rtol=1e-5, atol=1e-5)
    assert made["layers.1.attn.scores"][..., :7, 7:].eq(-torch.inf).all()  # generated tokens were not there yet
    assert made["layers.1.attn.pattern[2]"][:, -1, : columns - 4].eq(0).all()  # a window of 4 cached no more


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "bloom"])
def test_without_edits_it_is_hugging_faces_own(name):
    model = loaded(name)
    left = prompts().padded_left()
    theirs = model.hf.generate(
        left.ids,
        attention_mask=left.mask.long(),
        generation_config=transformers.GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0),
    )
    made = model.generate(prompts(), max_new_tokens=NEW, read=["layers.*.resid_post"])
    assert torch.equal(made.tokens.ids, theirs)


def test_what_a_checkpoint_adds_to_generation_is_left_out_and_left_alone():
    import digsite

    hf = randomised(CONFIGS["llama"]())
    hf.generation_config.repetition_penalty = 5.0
    own = hf.generation_config
    model = digsite.load(hf, verify=False)
    made = model.generate(prompts(), max_new_tokens=NEW, stop_at=None)
    assert made.generated == [without_cache(model, row, NEW, [])[0] for row in ROWS]
    assert hf.generation_config is own
    assert not hf._forward_hooks and not hf._forward_pre_hooks


def test_each_position_is_edited_once():
    import digsite

    model, calls = loaded("gpt2"), []

    def note(x):
        calls.append(tuple(x.shape))
        return x

    def shapes(at, rows=None):
        calls.clear()
        edit = digsite.apply("layers.1.resid_post", note, at=at, rows=rows)
        model.generate(prompts([ROWS[0], ROWS[0]]), max_new_tokens=4, stop_at=None, edits=[edit])
        return list(calls)

    assert shapes(3) == [(2, 64)]
    assert shapes(8) == [(2, 64)]  # the second new token
    assert shapes(slice(5, 9)) == [(2, 2, 64), (2, 1, 64), (2, 1, 64)]
    assert shapes(slice(8, None)) == [(2, 1, 64), (2, 1, 64)]
    assert shapes(None) == [(2, 7, 64), *[(2, 1, 64)] * 3]
    assert shapes(None, rows=(1,)) == [(1, 7, 64), *[(1, 1, 64)] * 3]


def test_steering_only_what_is_generated():
    import digsite

    model = loaded("llama")
    direction = 8 * torch.randn(64, generator=torch.Generator().manual_seed(0))
    plain = model.generate(prompts(ROWS[:1]), max_new_tokens=4, stop_at=None, logits=True)
    edit = digsite.add("layers.1.resid_post", direction, at=slice(7, None))
    steered = model.generate(prompts(ROWS[:1]), max_new_tokens=4, stop_at=None, edits=[edit], logits=True)
    assert torch.equal(steered.logits[:, 0], plain.logits[:, 0])  # the prompt alone chose the first token
    assert (steered.logits[:, 1] - plain.logits[:, 1]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["llama", "falcon_h1"])
def test_logits_are_a_site_too(name):
    import digsite

    model = loaded(name)
    made = model.generate(prompts(), max_new_tokens=NEW, stop_at=None, read=["logits"], logits=True)
    assert made["logits"].shape == (3, 7 + NEW - 1, 97)
    torch.testing.assert_close(made["logits"][:, 6:], made.logits, rtol=0, atol=0)
    worst = model.generate(prompts(), max_new_tokens=1, edits=[digsite.scale("logits", -1.0, at=-1)])
    assert [ids[0] for ids in worst.generated] == made.logits[:, 0].argmin(-1).tolist()


def test_rows_end_on_their_own():
    model = loaded("llama")
    free = model.generate(prompts(), max_new_tokens=8, stop_at=None)
    first = free.generated[0]
    at, stop = next((i, token) for i, token in enumerate(first) if i > 0 and token not in first[:i])
    made = model.generate(prompts(), max_new_tokens=8, stop_at=[stop, 96], read=["layers.1.resid_post"])
    for mine, whole in zip(made.generated, free.generated, strict=True):
        ends = [i for i, token in enumerate(whole) if token in (stop, 96)]
        assert mine == (whole[: ends[0] + 1] if ends else whole)
    assert len({len(ids) for ids in made.generated}) > 1
    assert made.tokens.lengths == [len(row) + len(ids) for row, ids in zip(ROWS, made.generated, strict=True)]
    assert made.tokens.starts == [0, 4, 2]
    assert made["layers.1.resid_post"].shape[1] == made.tokens.ids.shape[1] - 1
    alone = model.generate(prompts(ROWS[:1]), max_new_tokens=8, stop_at=stop)
    assert alone.generated == [free.generated[0][: at + 1]]
    assert alone.tokens.ids.shape == (1, 7 + at + 1)


def test_the_checkpoint_names_the_token_that_ends_a_row():
    import digsite

    hf = randomised(CONFIGS["llama"]())
    model = digsite.load(hf, verify=False)
    free = model.generate(prompts(ROWS[:1]), max_new_tokens=4, stop_at=None)
    hf.generation_config.eos_token_id = [96, free.generated[0][0]]
    assert model.generate(prompts(ROWS[:1]), max_new_tokens=4).generated == [free.generated[0][:1]]
    assert model.generate(prompts(ROWS[:1]), max_new_tokens=4, stop_at=None).generated == free.generated


def test_sampling_is_seeded_and_leaves_the_global_stream_alone():
    from digsite.models.generate import Sampling

    model = loaded("llama")

    def draw(**how):
        made = model.generate(prompts(), max_new_tokens=12, stop_at=None, sample=Sampling(**how))
        return made.generated

    state = torch.random.get_rng_state()
    assert draw(seed=1, temperature=3.0) == draw(seed=1, temperature=3.0)
    assert draw(seed=1, temperature=3.0) != draw(seed=2, temperature=3.0)
    assert torch.equal(torch.random.get_rng_state(), state)
    greedy = model.generate(prompts(), max_new_tokens=12, stop_at=None).generated
    assert draw(top_k=1) == draw(top_p=1e-6) == draw(temperature=1e-4) == greedy


def test_temperature_is_that_of_the_softmax():
    from digsite.models.generate import Sampling

    model = loaded("llama")
    tokens = prompts([ROWS[0]] * 4000)
    made = model.generate(tokens, max_new_tokens=1, sample=Sampling(temperature=2.0), logits=True)
    counts = torch.tensor([ids[0] for ids in made.generated]).bincount(minlength=97) / 4000
    wanted = (made.logits[0, 0] / 2.0).softmax(-1)
    assert (counts - wanted).abs().sum() < 4 * (wanted * (1 - wanted) / 4000).sqrt().sum()
    assert wanted.gt(0).sum() > 50  # no hidden cut to the 50 most likely


def test_bad_input_is_refused_beforehand():
    import digsite
    from digsite._core.errors import BadInput
    from digsite.models.generate import Sampling

    model = loaded("gpt2")

    def refused(match, edits=(), **arguments):
        with pytest.raises(BadInput, match=match):
            model.generate(prompts(), **{"max_new_tokens": 3, "edits": edits, **arguments})

    refused("longer than the model's context(.|\n)*7 tokens and 58 new ones(.|\n)*max_new_tokens=57", max_new_tokens=58)
    refused("max_new_tokens=0 generates nothing", max_new_tokens=0)
    refused("position 9, which no pass reads", [digsite.scale("layers.0.resid_post", 0.0, at=9)])
    refused("position 5, which(.|\n)*0 to 4", [digsite.scale("layers.0.resid_post", 0.0, at=5)])
    refused("position -1, which", [digsite.scale("layers.0.resid_post", 0.0, at=-4)])
    refused("same positions in every row", [digsite.swap("layers.0.resid_post", [1, 0, 2], at=slice(-1, None))])
    for name, wrong in {"temperature": 0.0, "top_k": 0, "top_p": 1.5}.items():
        with pytest.raises(BadInput, match=f"{name}={wrong} cannot be sampled with"):
            Sampling(**{name: wrong})


def test_a_site_that_no_pass_reaches_is_an_error():
    import digsite
    from digsite._core.errors import NoSuchSite, SiteDidNotFire

    hf = randomised(CONFIGS["llama"]())
    model = digsite.load(hf, verify=False)
    hf.config.num_hidden_layers = 2  # Hugging Face runs the first two layers only
    with pytest.raises(SiteDidNotFire, match=r"did not reach layers\.2\.resid_post"):
        model.generate(prompts(), max_new_tokens=2, read=["layers.2.resid_post"])
    with pytest.raises(NoSuchSite, match="There is no site"):
        model.generate(prompts(), max_new_tokens=2, read=["layers.2.mlp.sparse"])
    with pytest.raises(NoSuchSite, match="kept no logits"):
        _ = model.generate(prompts(), max_new_tokens=1).logits


def test_passes_are_counted():
    from digsite._core.cost import measure

    model = loaded("gpt2")
    with measure() as cost:
        model.generate(prompts(), max_new_tokens=5, stop_at=None)
    assert (cost.forwards, cost.rows) == (5, 15)


def test_fused_attention_generates_the_same():
    import digsite

    eager = loaded("llama")
    fused = digsite.load(tiny("llama"), attention="sdpa", verify=False)
    edits = [digsite.scale("layers.1.attn.k_rot", -1.0, at=2)]
    arguments = {"max_new_tokens": NEW, "stop_at": None, "edits": edits, "logits": True}
    ours, theirs = (model.generate(prompts(), **arguments) for model in (eager, fused))
    assert ours.generated == theirs.generated
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.data
def test_a_trained_model_tells_the_published_story():
    import digsite

    folder = os.environ.get("DIGSITE_TEST_DATA")
    if not folder:
        pytest.skip("DIGSITE_TEST_DATA is not set")
    source = Path(folder) / "models" / "stories260K"
    model = digsite.load(source, verify=False)
    golden = (source / "greedy_golden.txt").read_text().rstrip("\n")
    made = model.generate(model.tokens([[1]]), max_new_tokens=256)
    assert made.texts[0].strip()[: len(golden)] == golden
    begun = model.generate(model.tokens([golden[:60]]), max_new_tokens=150)
    assert golden[:60] + begun.texts[0] == golden[: 60 + len(begun.texts[0])]
    assert "rows ×" in repr(made)
