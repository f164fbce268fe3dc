"""`digsite lens`: where in depth the answer appears."""

import digsite
from digsite.cli.inputs import AS_STORED, AS_USUAL, Examples, Loading, ModelName, TaskName
from digsite.cli.outputs import NOWHERE, Saving, answers, columns, estimate, origin, print_json, print_saved, spent


def lens(
    *,
    model: ModelName,
    task: TaskName,
    examples: Examples = AS_USUAL,
    saving: Saving = NOWHERE,
    loading: Loading = AS_STORED,
) -> None:
    """Where in depth does the answer appear? The logit lens at every layer."""
    saving.check()
    ask = examples.of(task)
    loaded = loading.load(model)
    asked = ask(loaded)
    found = digsite.logit_lens(loaded, asked)
    rows = found.to_frame().to_dicts()
    if saving.json:
        about = {"verdict": found.verdict, "model": loaded.name, "task": asked.summary()}
        measured = {"layers": rows, "last_layer_error": found.last_layer_error}
        print_json(about | measured | origin(found) | saving.save(found))
        return
    table = columns("layer", "p(right)", "p(wrong)", "logit diff", "rank", "KL")
    for row in rows:
        names = ("right", "wrong", "logit_diff")
        numbers = (estimate(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in names)
        table.add_row(row["layer"], *numbers, f"{row['rank']:.1f}", f"{row['kl']:z.2f}")
    table.caption = f"means over {len(asked)} [95 % interval]; logit diff in logits, KL to the output in nats"
    out = answers()
    for part in (found.verdict, "", table, "", spent(found)):
        out.print(part)
    print_saved(saving.save(found))
