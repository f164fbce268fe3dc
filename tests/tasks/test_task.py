"""Tasks: rows and examples, metrics on a real forward pass, subsets, the user's own tables."""

import json

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from digsite._core.errors import BadInput, LoadError, NotFinite, ShapeMismatch, Unsupported
from digsite.tasks.build import build
from digsite.tasks.examples import Example
from digsite.tasks.task import Task

WORDS = "Mary John Anna Tom met at the store park yesterday , . one two three he she"


@pytest.fixture(scope="module")
def model(word_model):
    return word_model(WORDS)


SHORT = [
    Example("Mary met John at the", "Tom met John at the", (" store",), (" park",), {"who": (0, 4)}, "places"),
    Example(
        "yesterday , Mary met Tom at the store . one two three",
        "yesterday , Anna met Tom at the store . one two three",
        (" one", " two"),
        (" he", " she", " ,"),
        {"who": (12, 16), "other": (21, 24)},
        "lists",
    ),
    Example("John met", "Anna met", (" Mary",), (" John", " Tom"), {"who": (0, 4)}, "names"),
]
LONG = [
    Example("Mary met", "Tom met", (" John at the store", " Anna"), (" Tom one",), {"who": (0, 4)}, "a"),
    Example("yesterday , Mary met", "yesterday , Tom met", (" one two",), (" three", " he she"), {}, "b"),
    Example("at the", "the at", (" park",), (" store . one",), {"place": (3, 6)}, "a"),
]
KINDS = pytest.mark.parametrize("examples", [SHORT, LONG], ids=["one token", "several"])


def task_of(model, examples, **more):
    task = build(model, "meeting", "Whom does {model} meet?", examples, len(examples), seed=0, **more)
    assert not task.dropped
    return task


def logits_of(model, tokens, keep):
    return model.run(tokens, logits=keep).logits


def log_prob_by_hand(model, prompt, answer):
    """Sum of log-probabilities of the answer's tokens: plain transformers, one unpadded row."""
    ids = model.tokenizer(prompt + answer, return_tensors="pt")["input_ids"]
    start = len(model.tokenizer(prompt)["input_ids"])
    with torch.no_grad():
        log_p = model.hf(ids).logits[0].log_softmax(-1)
    each = torch.stack([log_p[i - 1, ids[0, i]] for i in range(start, ids.shape[1])])
    return each.sum(), len(each)


@KINDS
@pytest.mark.parametrize("side", ["clean", "corrupt"])
@pytest.mark.parametrize("normalise", [None, "length"])
def test_metrics_equal_a_plain_forward_pass_over_each_answer(model, examples, side, normalise):
    task = Task.from_frame(model, records(examples), normalise=normalise)
    logits = logits_of(model, getattr(task, side), task.keep)
    by_name = {"log_prob": [], "logit_diff": [], "prob_diff": [], "accuracy": []}
    for example in examples:
        scores = {}
        for answers in (example.right, example.wrong):
            pairs = [log_prob_by_hand(model, getattr(example, side), answer) for answer in answers]
            scores[answers] = torch.stack([total / count if normalise else total for total, count in pairs])
        right, wrong = scores[example.right], scores[example.wrong]
        by_name["log_prob"].append(right.exp().sum().log())
        by_name["logit_diff"].append(right.mean() - wrong.mean())
        by_name["prob_diff"].append(right.exp().sum() - wrong.exp().sum())
        by_name["accuracy"].append((right.max() > wrong.max()).float())
    for name, expected in by_name.items():
        torch.testing.assert_close(task.metric(logits, name), torch.stack(expected), atol=1e-5, rtol=1e-5, msg=name)


def records(examples):
    return [
        {
            "clean": e.clean,
            "corrupt": e.corrupt,
            "right": "|".join(e.right),
            "wrong": "|".join(e.wrong),
            "kind": e.group,
        }
        for e in examples
    ]


def test_one_token_answers_make_a_row_an_example(model):
    task = task_of(model, SHORT)
    assert len(task) == len(task.clean) == len(task.require_corrupt()) == 3
    assert task.keep == 1 and task.answer_position == -1
    assert task.example_rows.tolist() == [0, 1, 2]
    assert task.clean.mask[:, -1].all()  # padded on the left: every row ends in the last column
    assert task.clean.lengths == task.require_corrupt().lengths == [6, 13, 3]
    assert task.clean.bos == "added by the tokenizer"


def test_long_answers_have_a_row_each_right_ones_first(model):
    task = task_of(model, LONG)
    rows = [" ".join(strings) for strings in task.clean.strings]
    assert [row.split(maxsplit=1)[1] for row in rows] == [
        "Mary met John at the", "Mary met", "yesterday , Mary met one", "at the",
        "Mary met Tom", "yesterday , Mary met", "yesterday , Mary met he", "at the store .",
    ]  # fmt: skip
    assert task.example_rows.tolist() == [0, 0, 1, 2, 0, 1, 1, 2]
    assert (len(task), task.keep) == (3, 4)
    assert task.clean.lengths == task.require_corrupt().lengths
    assert task.clean.mask[:, -1].all()


def test_spans_follow_their_example_into_every_row(model):
    task = task_of(model, LONG)
    assert task.spans["who"].tolist() == [[1, 2], [0, 0], [0, 0]]
    assert task.row_spans("place").tolist() == [[2, 3] if e == 2 else [0, 0] for e in task.example_rows.tolist()]
    short = task_of(model, SHORT)
    starts = short.row_spans("who")[:, 0]
    columns = starts + torch.tensor(short.clean.starts)
    names = short.clean.ids[torch.arange(3), columns].tolist()
    assert model.tokenizer.convert_ids_to_tokens(names) == ["Mary", "Mary", "John"]
    with pytest.raises(BadInput, match=r"The task meeting has no span 'whom'.\nPossible: did you mean who?"):
        task.row_spans("whom")


def test_the_answer_direction_reads_the_logit_difference(model):
    task = task_of(model, SHORT)
    (right, w_right), (wrong, w_wrong) = task.answer_direction_ids()
    torch.testing.assert_close(w_right.sum(-1), torch.ones(3))
    torch.testing.assert_close(w_wrong.sum(-1), torch.ones(3))
    run = model.run(task.clean, read=["final.norm"], logits=1)
    unembed = model.hf.lm_head.weight
    direction = (w_right[..., None] * unembed[right]).sum(1) - (w_wrong[..., None] * unembed[wrong]).sum(1)
    by_direction = (run["final.norm"][:, -1] * direction).sum(-1)
    torch.testing.assert_close(by_direction, task.metric(run.logits), atol=1e-5, rtol=1e-5)
    with pytest.raises(Unsupported, match=r"answers of up to 4 tokens, which no single direction reads"):
        task_of(model, LONG).answer_direction_ids()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.booleans())
def test_a_subset_measures_what_the_whole_measures_there(word_model, indices, several):
    model = word_model(WORDS)
    task = task_of(model, LONG if several else SHORT)
    part = task[indices]
    assert len(part) == len(indices)
    assert part.groups == tuple(task.groups[i] for i in indices)
    assert part.clean.lengths == part.require_corrupt().lengths
    for name in ("logit_diff", "log_prob", "accuracy", "rank"):
        whole = task.metric(logits_of(model, task.clean, task.keep), name)[indices]
        there = part.metric(logits_of(model, part.clean, part.keep), name)
        torch.testing.assert_close(there, whole, atol=1e-5, rtol=1e-5)
    for name in task.spans:
        assert torch.equal(part.spans[name], task.spans[name][indices])
        assert torch.equal(part.row_spans(name), part.spans[name][part.example_rows])


@KINDS
def test_subsets_take_any_index(model, examples):
    task = task_of(model, examples)
    assert task[0].groups == task.groups[:1] and task[1:].groups == task.groups[1:]
    assert task[torch.tensor([True, False, True])].groups == (task.groups[0], task.groups[2])
    assert task.take(slice(None)).fingerprint == task.fingerprint
    assert task.take([1, 0, 2]).fingerprint != task.fingerprint
    with pytest.raises(BadInput, match=r"No example of meeting is left.\nFound: 0 of 3 chosen"):
        task[3:]


def test_the_fingerprint_sees_every_part_that_decides_a_number(model):
    prints = {
        task_of(model, SHORT).fingerprint,
        task_of(model, SHORT[:2]).fingerprint,
        task_of(model, SHORT, metric="prob").fingerprint,
        Task.from_frame(model, records(SHORT), normalise="length").fingerprint,
        Task.from_frame(model, [r | {"right": " three"} for r in records(SHORT)]).fingerprint,
        Task.from_frame(model, [r | {"wrong": " three"} for r in records(SHORT)]).fingerprint,
        Task.from_frame(model, records(SHORT), corrupt=None).fingerprint,
    }
    assert len(prints) == 7
    assert task_of(model, SHORT).fingerprint == Task.from_frame(model, records(SHORT)).fingerprint


def test_gradients_reach_the_stream(model):
    task = task_of(model, LONG)
    run = model.run(task.clean, read=["layers.1.resid_pre"], logits=task.keep, grad=True)
    (grad,) = torch.autograd.grad(task.metric(run.logits).sum(), run["layers.1.resid_pre"])
    touched = grad.abs().sum((1, 2)) > 0
    assert touched.all()  # every row of every example counts


def test_kl_between_clean_and_corrupt(model):
    task = task_of(model, SHORT)
    clean, corrupt = (logits_of(model, t, 1) for t in (task.clean, task.require_corrupt()))
    p, q = clean[:, 0].softmax(-1), corrupt[:, 0].softmax(-1)
    torch.testing.assert_close(task.metric(corrupt, "kl", reference=clean), (p * (p / q).log()).sum(-1))


@pytest.mark.parametrize("examples", [SHORT, LONG])
def test_the_metric_of_many_runs_is_that_of_each(model, examples):
    task = Task.from_frame(model, records(examples))
    reference = model.run(task.clean, logits=task.keep).logits
    runs = torch.stack([reference, 2 * reference, torch.randn_like(reference)])
    for name in ("logit_diff", "kl", "rank"):
        each = torch.stack([task.metric(logits, name, reference=reference) for logits in runs])
        assert torch.equal(task.metric_of_many(runs, name, reference=reference), each)


def test_metric_refuses_what_is_no_answer(model):
    task = task_of(model, LONG)
    logits = logits_of(model, task.clean, "all")
    torch.testing.assert_close(task.metric(logits), task.metric(logits[:, -4:]))
    with pytest.raises(ShapeMismatch, match=r"3 rows and 4 columns.\nPossible: 8 rows .* the last 4 columns or more"):
        task.metric(logits[:3, -4:])
    with pytest.raises(BadInput, match=r"There is no metric 'f1'"):
        task.metric(logits, "f1")
    logits[2, -1, 5] = torch.nan
    with pytest.raises(NotFinite, match=r"logits must be finite"):
        task.metric(logits)


def test_a_task_without_pairs_says_so_where_pairs_are_needed(model):
    task = Task.from_frame(model, {"clean": ["Mary met"], "right": [" John"]}, corrupt=None, wrong=None)
    assert task.corrupt is None and task.metric_name == "log_prob"
    assert task.metric(logits_of(model, task.clean, 1)).shape == (1,)
    with pytest.raises(BadInput, match=r"The task own data has no corrupt prompts"):
        task.require_corrupt()
    with pytest.raises(BadInput, match=r"An example of own data has no wrong answer to subtract"):
        task.answer_direction_ids()


def test_settings_that_mean_nothing_are_refused(model):
    with pytest.raises(BadInput, match=r"normalise='words' is not a way to score"):
        Task.from_frame(model, records(SHORT), normalise="words")
    with pytest.raises(BadInput, match=r"There is no metric 'logits'"):
        task_of(model, SHORT, metric="logits")
    with pytest.raises(BadInput, match=r"The metric kl cannot be a task's own"):
        task_of(model, SHORT, metric="kl")


def test_the_preview_shows_exact_tokens_and_what_differs(model):
    task = task_of(model, LONG)
    assert repr(task) == "\n".join(
        [
            f"Task meeting: Whom does {model.name} meet?",
            "  3 pairs in 8 rows; metric logit_diff (logits); BOS added by the tokenizer",
            "example 0 · a",
            "  clean   <s>│⟦Mary⟧│met",
            "  corrupt <s>│⟦Tom⟧│met",
            "  right   John│at│the│store  Anna",
            "  wrong   Tom│one",
            "example 1 · b",
            "  clean   <s>│yesterday│,│⟦Mary⟧│met",
            "  corrupt <s>│yesterday│,│⟦Tom⟧│met",
            "  right   one│two",
            "  wrong   three  he│she",
        ]
    )


def test_the_preview_fits_the_page_and_shows_spaces(stories):
    text = "Once upon a time, a boy named Tom wanted to find out what was in the big red box, but his mom"
    task = Task.from_frame(
        stories, [{"clean": text, "corrupt": text.replace("Tom", "Sam"), "right": " said", "wrong": " was\nhappy"}]
    )
    lines = repr(task).splitlines()[2:]
    assert max(map(len, lines)) <= 82
    assert "·said" in repr(task) and "⏎" in repr(task) and "⟦" in repr(task)
    assert "│".join(line[10:].strip("│") for line in lines if line.startswith((" " * 10, "  clean"))).startswith(
        "<s>│·O"
    )


def test_show_prints_the_preview(model, capsys):
    task_of(model, SHORT).show(1)
    assert "⟦Mary⟧" in capsys.readouterr().out


def test_the_summary_is_plain_data(model):
    summary = task_of(model, LONG).summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary | {"fingerprint": ""} == {
        "name": "meeting", "question": f"Whom does {model.name} meet?", "description": "", "examples": 3, "rows": 8,
        "paired": True, "metric": "logit_diff", "unit": "logits", "normalise": None, "bos": "added by the tokenizer",
        "prompt_tokens": [3, 5], "answer_tokens": [1, 4], "spans": ["place", "who"], "groups": {"a": 2, "b": 1},
        "dropped": {}, "seed": 0, "fingerprint": "",
    }  # fmt: skip


# -- the user's own tables -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "polars", "pandas", "records", "columns"])
def test_every_kind_of_table_gives_the_same_task(model, tmp_path, suffix):
    table = pl.DataFrame(records(SHORT))
    path = tmp_path / f"mine.{suffix}"
    frame = {
        "csv": lambda: table.write_csv(path),
        "tsv": lambda: table.write_csv(path, separator="\t"),
        "jsonl": lambda: table.write_ndjson(path),
        "parquet": lambda: table.write_parquet(path),
        "polars": lambda: table,
        "pandas": lambda: pytest.importorskip("pandas").DataFrame(table.to_dict(as_series=False)),
        "records": lambda: table.to_dicts(),
        "columns": lambda: table.to_dict(as_series=False),
    }[suffix]()
    given_name = frame is None
    task = Task.from_frame(model, path if given_name else frame, group="kind")
    assert task.name == ("mine" if given_name else "own data")
    assert task.fingerprint == task_of(model, SHORT).fingerprint
    assert task.groups == ("places", "lists", "names")
    assert task.right.texts == ((" store",), (" one", " two"), (" Mary",))


def test_digits_stay_text(word_model, tmp_path):
    path = tmp_path / "years.csv"
    path.write_text('clean,corrupt,right,wrong\none two,two two," 01"," 02| 1"\n')
    task = Task.from_frame(word_model("one two 01 02 1"), path)
    assert task.right.texts == ((" 01",),) and task.wrong.texts == ((" 02", " 1"),)


def test_answers_may_be_a_list(model):
    task = Task.from_frame(model, [{"clean": "Mary met", "right": [" John", " Tom"]}], corrupt=None, wrong=None)
    assert task.right.texts == ((" John", " Tom"),)


def test_missing_columns_are_all_named(model):
    with pytest.raises(BadInput) as error:
        Task.from_frame(model, {"prompt": ["Mary met"], "right": [" John"]}, clean="promt")
    assert str(error.value) == (
        "The table lacks the column 'promt' (clean), the column 'corrupt' (corrupt), the column 'wrong' (wrong).\n"
        "Found: columns prompt, right.\n"
        "Do: name the columns: clean=..., corrupt=..., wrong=...; corrupt=None and wrong=None go without."
    )


BAD = [
    ("Mary met", "Tom met", " John", " Anna"),
    ("Mary met", "Tom met John", " John", " Anna"),
    ("Mary met", "Tom met", " Zoe", " Anna"),
    ("   ", "Tom met", " John", " Anna"),
    (None, "Tom met", " John", " Anna"),
    ("Mary met", "Tom met", " John", " John"),
    ("Mary met", "Tom met", " John||", " Anna"),
    ("Mary met Zoe", "Tom met Zoe", " John", " Anna"),
]


def test_bad_rows_are_refused_together_each_with_its_reason(model):
    table = pl.DataFrame(BAD, schema=["clean", "corrupt", "right", "wrong"], orient="row")
    with pytest.raises(BadInput) as error:
        Task.from_frame(model, table)
    for line in (
        "7 of 8 rows cannot be used (rows are counted from 0).",
        "row 1: clean and corrupt differ in token count (clean has 3 tokens, corrupt has 4)",
        "row 2: an answer is not in the vocabulary (' Zoe' holds the unk token)",
        "row 3: not a usable example (the clean prompt is empty)",
        "row 4: a cell is empty (clean)",
        "row 5: not a usable example (' John' is right and wrong at once)",
        "row 6: not a usable example (there is no right answer, or an empty one)",
        "row 7: a word of the prompt is not in the vocabulary (the clean prompt holds the unk token)",
        "drop_unusable=True",
    ):
        assert line in str(error.value)


def test_bad_rows_can_be_left_out_and_are_counted(model):
    table = pl.DataFrame(BAD, schema=["clean", "corrupt", "right", "wrong"], orient="row")
    task = Task.from_frame(model, table, drop_unusable=True)
    assert len(task) == 1
    assert sum(task.dropped.values()) == 7
    assert "dropped: 1 × clean and corrupt differ in token count; 1 × " in repr(task)
    with pytest.raises(BadInput, match=r"7 of 7 rows cannot be used"):
        Task.from_frame(model, table[1:], drop_unusable=True)


def test_files_that_cannot_be_read(model, tmp_path):
    with pytest.raises(LoadError, match=r"The task file .*nothing.csv cannot be read"):
        Task.from_frame(model, tmp_path / "nothing.csv")
    with pytest.raises(BadInput, match=r"A task cannot be read from mine.xlsx.\nPossible: .csv, .tsv, .jsonl"):
        Task.from_frame(model, tmp_path / "mine.xlsx")
    (tmp_path / "broken.jsonl").write_text('{"clean": "Mary met"\n')
    with pytest.raises(LoadError, match=r"broken.jsonl cannot be read"):
        Task.from_frame(model, tmp_path / "broken.jsonl")
    (tmp_path / "head.csv").write_text("clean,corrupt,right,wrong\n")
    with pytest.raises(BadInput, match=r"The table has no rows"):
        Task.from_frame(model, tmp_path / "head.csv")
    with pytest.raises(BadInput, match=r"A task cannot be made from a object"):
        Task.from_frame(model, object())


# -- public data ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def gpt2_like(public):
    """A random GPT-2 with the public GPT-2 vocabulary."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

    from digsite.models import load

    folder = public / "data/gpt2-tokenizer"
    tokenizer = GPT2Tokenizer(vocab=str(folder / "gpt2_vocab.json"), merges=str(folder / "gpt2_merges.txt"))
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, n_positions=64)).eval()
    return load(hf, tokenizer=tokenizer)


@pytest.mark.data
def test_greater_than_of_the_literature_loads_with_all_years(public, gpt2_like):
    table = pl.read_csv(public / "data/eap-ig-tasks/greater_than_data.csv", infer_schema=False)[:20]
    years = [f"{year:02d}" for year in range(2, 99)]
    table = table.with_columns(
        right=pl.Series(["|".join(y for y in years if y > label) for label in table["label"]]),
        wrong=pl.Series(["|".join(y for y in years if y <= label) for label in table["label"]]),
    )
    with pytest.raises(BadInput, match=r"12 of 20 rows cannot be used .*\n.*\n.*'02' after ' the year 13'"):
        Task.from_frame(gpt2_like, table, corrupt="corrupted")  # GPT-2 writes 1302 as 130 and 2
    task = Task.from_frame(gpt2_like, table, corrupt="corrupted", metric="prob_diff", drop_unusable=True)
    assert len(task) == len(task.clean) == 20 and task.clean.bos == "none"
    kept = [{*right, *wrong} for right, wrong in zip(task.right.texts, task.wrong.texts, strict=True)]
    assert kept[0] == {year for year in years if year[0] != "0"}
    assert dict(task.dropped) == {
        "one of several answers left out: the answer merges with the end of the prompt": sum(97 - len(k) for k in kept)
    }
    logits = logits_of(gpt2_like, task.clean, 1)
    p, label = logits[0, -1].softmax(-1), table["label"][0]
    ids = {year: gpt2_like.tokenizer(year)["input_ids"][0] for year in kept[0]}
    expected = sum(p[i] if year > label else -p[i] for year, i in ids.items())
    torch.testing.assert_close(task.metric(logits)[0], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.data
def test_minimal_pairs_of_blimp_are_a_task_of_one_prompt(public, stories):
    rows = [
        json.loads(line)
        for line in (public / "data/blimp/anaphor_gender_agreement.jsonl").read_text().splitlines()[:40]
    ]
    table = [
        {
            "clean": r["one_prefix_prefix"],
            "right": f" {r['one_prefix_word_good']}.",
            "wrong": f" {r['one_prefix_word_bad']}.",
        }
        for r in rows
    ]
    task = Task.from_frame(stories, table, corrupt=None, name="blimp")
    assert len(task) == 40 and task.keep > 1 and task.corrupt is None
    score = task.metric(logits_of(stories, task.clean, task.keep))
    totals = [log_prob_by_hand(stories, table[0]["clean"], table[0][side])[0] for side in ("right", "wrong")]
    torch.testing.assert_close(score[0], totals[0] - totals[1], atol=1e-4, rtol=1e-4)
