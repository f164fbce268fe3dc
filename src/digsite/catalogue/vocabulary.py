"""The words of the catalogue: the map of experimental methods, levels of abstraction, kinds of evidence."""

BRANCHES = {
    "circuits: QK and OV": "what a head looks for and what it writes, by its pattern and its weights",
    "circuits: patching": "values exchanged between two runs: at places, along paths, in sets of components",
    "circuits: attribution graphs": "edges and nodes scored by gradient or search, then cut and judged",
    "sparsifying": "activations written as few active latents: SAEs, transcoders, crosscoders",
    "linear": "a direction read out or pushed: lenses, probes, steering",
    "levels of abstraction": "one question asked at several levels, in several models, or of what a text works out",
    "assessment": "methods held to what is known to be there",
}
"""The branches of the map, and what each does."""

LEVELS = {
    "neuron": "one unit of an MLP; most stand for several things at once",
    "head": "one attention head, or one MLP as a whole",
    "latent": "one unit of a dictionary",
    "direction": "one vector in the stream, or a subspace of it",
    "circuit": "some edges or components, as a claim: these do the work",
    "graph": "all edges with their weights",
    "behaviour": "what the model answers",
}
"""The levels of abstraction, from the smallest part to what the model does."""

EVIDENCE = {
    "weights": "read from the weights alone; no prompt is run",
    "observation": "read from activations; says what is there, not what is used",
    "gradient": "the effect of an intervention, foretold to first order",
    "intervention": "something was changed, and what became of the answer was measured",
    "fit": "fitted to data, and judged on data held out",
    "comparison": "results put side by side; no model is run",
}
"""The kinds of evidence, and what each can say."""
