"""Every public function that gives a result is a method: a dig remembers it."""

import importlib
import inspect
import pkgutil

import digsite
from digsite.artifacts import Result

NOT_METHODS = {
    "digsite.artifacts.result.load_result",  # reads one
    "digsite.graphs.circuit.circuit",  # puts one together by hand
    "digsite.graphs.mib.read_mib",  # reads one
    "digsite.circuits.attribution.attribute",  # what eap, eap_ig and relp share
    "digsite.toys.trained.claims.findings",  # what the toys' examinations share
}


def test_every_function_that_gives_a_result_is_remembered():
    plain = []
    for module in pkgutil.walk_packages(digsite.__path__, "digsite."):
        rooms = module.name.split(".")
        if {"viz", "cli", "journal", "__main__", "triton_kernels"} & set(rooms):
            continue
        for name, function in vars(importlib.import_module(module.name)).items():
            if name.startswith("_") or not inspect.isfunction(function) or function.__module__ != module.name:
                continue
            gives = inspect.unwrap(function).__annotations__.get("return")
            if inspect.isclass(gives) and issubclass(gives, Result) and not hasattr(function, "is_method"):
                plain.append(f"{module.name}.{name}")
    assert sorted(set(plain) - NOT_METHODS) == []
