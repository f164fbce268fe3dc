"""The same model with nothing in it: a control for every claim about what training put there."""

import copy

import torch

from digsite.models.load import load
from digsite.models.model import Model


def untrained(model: Model, *, seed: int = 0) -> Model:
    """A copy of a model in which the entries of every weight matrix are shuffled.

    Norms, biases and the size of every matrix stay as they are, so that streams and effects have the usual scale; what
    the matrices compute is gone. The model itself is left alone.

    Args:
        model: The model; its weights are held in memory twice.
        seed: Of the shuffling.

    Source:
        Adebayo et al. 2018, "Sanity checks for saliency maps" (arXiv:1810.03292): a method that finds as much in a
        model of random weights says nothing about training.
    """
    hf = copy.deepcopy(model.hf)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in hf.parameters():
            if weight.ndim > 1:
                order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                weight.copy_(weight.flatten()[order].view_as(weight))
    # The contracts are those of the architecture, and that is the same.
    return load(hf, tokenizer=model.tokenizer, attention=model.attention, verify=False)
