"""Values to plain JSON, tensors and tables, and back, as the types of the fields say.

The type of a field decides both ways, so nothing is guessed and nothing that a file says is executed:

    None bool int float str, Literal      themselves; a float that is not finite as "NaN", "Infinity", "-Infinity"
    list[T] tuple[T, ...] tuple[A, B]     lists
    dict[str, T]                          objects
    T | None                              T or null
    a dataclass                           an object with a key for each field
    a result, or a choice of results      the same with its "schema", which decides the class
    Any                                   plain JSON as it is: no tuples, no NaN, nothing that would come back changed
    Site                                  its address
    Tensor, Float[Tensor, "..."]          {"tensor": name}, in tensors.safetensors
    polars.DataFrame                      {"table": name}, in <name>.parquet

A name is the path of the value inside the result: `scores`, or `parts/0/scores`.
"""

import math
import types
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import polars as pl
import torch
from jaxtyping import AbstractArray
from torch import Tensor

from digsite._core.errors import BadInput, DigsiteError, LoadError, NoSuchSite, explain
from digsite.artifacts.schema import class_of
from digsite.sites import Site

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass
class Parts:
    """What of a result does not go into JSON, by name."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)


class Codec(ABC):
    """How values of one type are written and read; `where` is the path of the value, for names and errors."""

    @abstractmethod
    def pack(self, value: Any, where: str, parts: Parts) -> Any:
        """The JSON of a value; its tensors and tables go into `parts`. Raises BadInput."""

    @abstractmethod
    def unpack(self, plain: Any, where: str, parts: Parts) -> Any:
        """The value; its tensors and tables are taken out of `parts`. Raises LoadError."""


def codec_for(hint: Any) -> Codec:
    """How values of a type are written and read.

    Raises:
        BadInput: The type is not in the list above.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if isinstance(hint, type) and issubclass(hint, (Tensor, AbstractArray)):
        return _TensorCodec(hint)
    if hint is pl.DataFrame:
        return _TableCodec()
    if hint is Site:
        return _SiteCodec()
    if hint in (Any, object):
        return _PlainCodec()
    if is_dataclass(hint):
        return _ResultCodec((hint,)) if hasattr(hint, "SCHEMA") else _FieldsCodec(hint)
    if hint in (bool, int, float, str, types.NoneType):
        return _ScalarCodec(hint)
    if origin is Literal:
        return _LiteralCodec(arguments)
    if origin is list or (origin is tuple and arguments[1:] == (...,)):
        return _ItemsCodec(origin, codec_for(arguments[0]))
    if origin is tuple:
        return _TupleCodec(tuple(codec_for(argument) for argument in arguments))
    if origin is dict and arguments[0] is str:
        return _DictCodec(codec_for(arguments[1]))
    raise BadInput(
        explain(f"A field of type {hint} cannot be saved", possible=(__doc__ or "").split("\n\n")[2].strip())
    )


def _union(options: tuple[Any, ...]) -> Codec:
    rest = tuple(option for option in options if option is not types.NoneType)
    if all(hasattr(option, "SCHEMA") for option in rest):
        inner = _ResultCodec(rest)
    elif len(rest) == 1:
        inner = codec_for(rest[0])
    else:
        raise BadInput(explain(f"A field that is one of {options} cannot be saved", possible="T | None, or results"))
    return _OptionalCodec(inner) if len(rest) < len(options) else inner


@dataclass(frozen=True)
class _ScalarCodec(Codec):
    kind: type

    def pack(self, value: Any, where: str, parts: Parts) -> Any:
        fits = isinstance(value, (int, float) if self.kind is float else self.kind)
        if not fits or (isinstance(value, bool) and self.kind is not bool):
            _cannot_write(value, self.kind.__name__, where)
        if self.kind is not float:
            return value
        number = float(value)
        if math.isfinite(number):
            return number
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"

    def unpack(self, plain: Any, where: str, parts: Parts) -> Any:
        if self.kind is float and isinstance(plain, str) and plain in _NOT_FINITE:
            return _NOT_FINITE[plain]
        if type(plain) is self.kind or (self.kind is float and type(plain) is int):
            return float(plain) if self.kind is float else plain
        _cannot_read(plain, self.kind.__name__, where)


@dataclass(frozen=True)
class _PlainCodec(Codec):
    def pack(self, value: Any, where: str, parts: Parts) -> Any:
        match value:
            case None | bool() | int() | str():
                return value
            case float() if math.isfinite(value):
                return value
            case list():
                return [self.pack(item, f"{where}/{index}", parts) for index, item in enumerate(value)]
            case dict() if all(isinstance(key, str) for key in value):
                return {key: self.pack(item, _below(where, key), parts) for key, item in value.items()}
        _cannot_write(value, "plain JSON, or a field with a type of its own", where)

    def unpack(self, plain: Any, where: str, parts: Parts) -> Any:
        return plain


@dataclass(frozen=True)
class _LiteralCodec(Codec):
    options: tuple[Any, ...]

    def pack(self, value: Any, where: str, parts: Parts) -> Any:
        return value if value in self.options else _cannot_write(value, f"one of {self.options}", where)

    def unpack(self, plain: Any, where: str, parts: Parts) -> Any:
        return plain if plain in self.options else _cannot_read(plain, f"one of {self.options}", where)


@dataclass(frozen=True)
class _SiteCodec(Codec):
    def pack(self, value: Any, where: str, parts: Parts) -> Any:
        return str(value) if isinstance(value, Site) else _cannot_write(value, "a Site", where)

    def unpack(self, plain: Any, where: str, parts: Parts) -> Any:
        try:
            return Site.parse(plain)
        except (NoSuchSite, AttributeError):
            _cannot_read(plain, "the address of a site", where)


@dataclass(frozen=True)
class _OptionalCodec(Codec):
    inner: Codec

    def pack(self, value: Any, where: str, parts: Parts) -> Any:
        return None if value is None else self.inner.pack(value, where, parts)

    def unpack(self, plain: Any, where: str, parts: Parts) -> Any:
        return None if plain is None else self.inner.unpack(plain, where, parts)


@dataclass(frozen=True)
class _ItemsCodec(Codec):
    kind: type
    inner: Codec

    def pack(self, value: Any, where: str, parts: Parts) -> Any:
        if not isinstance(value, self.kind):
            _cannot_write(value, f"a {self.kind.__name__}", where)
        return [self.inner.pack(item, f"{where}/{index}", parts) for index, item in enumerate(value)]

    def unpack(self, plain: Any, where: str, parts: Parts) -> Any:
        if not isinstance(plain, list):
            _cannot_read(plain, "a list", where)
        return self.kind(self.inner.unpack(item, f"{where}/{index}", parts) for index, item in enumerate(plain))


@dataclass(frozen=True)
class _TupleCodec(Codec):
    inner: tuple[Codec, ...]

    def pack(self, value: Any, where: str, parts: Parts) -> Any:
        if not isinstance(value, tuple) or len(value) != len(self.inner):
            _cannot_write(value, f"a tuple of {len(self.inner)}", where)
        return [codec.pack(value[index], f"{where}/{index}", parts) for index, codec in enumerate(self.inner)]

    def unpack(self, plain: Any, where: str, parts: Parts) -> Any:
        if not isinstance(plain, list) or len(plain) != len(self.inner):
            _cannot_read(plain, f"a list of {len(self.inner)}", where)
        return tuple(codec.unpack(plain[index], f"{where}/{index}", parts) for index, codec in enumerate(self.inner))


@dataclass(frozen=True)
class _DictCodec(Codec):
    inner: Codec

    def pack(self, value: Any, where: str, parts: Parts) -> Any:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            _cannot_write(value, "a dict with text as keys", where)
        return {key: self.inner.pack(item, _below(where, key), parts) for key, item in value.items()}

    def unpack(self, plain: Any, where: str, parts: Parts) -> Any:
        if not isinstance(plain, dict):
            _cannot_read(plain, "an object", where)
        return {key: self.inner.unpack(item, _below(where, key), parts) for key, item in plain.items()}


@dataclass(frozen=True)
class _TensorCodec(Codec):
    hint: Any

    def pack(self, value: Any, where: str, parts: Parts) -> Any:
        if not isinstance(value, self.hint):
            _cannot_write(value, self.hint.__name__, where)
        # A copy, because a file cannot hold views that share memory.
        parts.tensors[where] = value.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        return {"tensor": where}

    def unpack(self, plain: Any, where: str, parts: Parts) -> Any:
        if plain != {"tensor": where} or where not in parts.tensors:
            _cannot_read(plain, f"the tensor {where!r}, and that tensor in tensors.safetensors", where)
        if not isinstance(parts.tensors[where], self.hint):
            _cannot_read(parts.tensors[where], self.hint.__name__, where)
        return parts.tensors.pop(where)


@dataclass(frozen=True)
class _TableCodec(Codec):
    def pack(self, value: Any, where: str, parts: Parts) -> Any:
        if not isinstance(value, pl.DataFrame):
            _cannot_write(value, "a polars.DataFrame", where)
        parts.tables[where] = value
        return {"table": where}

    def unpack(self, plain: Any, where: str, parts: Parts) -> Any:
        if plain != {"table": where} or where not in parts.tables:
            _cannot_read(plain, f"the table {where!r}, and that table among the files", where)
        return parts.tables.pop(where)


@dataclass(frozen=True)
class _FieldsCodec(Codec):
    kind: Any

    def pack(self, value: Any, where: str, parts: Parts) -> Any:
        if type(value) is not self.kind:
            _cannot_write(value, f"a {self.kind.__name__}", where)
        codecs = _field_codecs(self.kind)
        return {name: codec.pack(getattr(value, name), _below(where, name), parts) for name, codec in codecs.items()}

    def unpack(self, plain: Any, where: str, parts: Parts) -> Any:
        if not isinstance(plain, dict):
            _cannot_read(plain, f"the fields of {self.kind.__name__}", where)
        codecs = _field_codecs(self.kind)
        missing, unused = sorted(codecs.keys() - plain.keys()), sorted(plain.keys() - codecs.keys())
        if missing or unused:
            asked = f"{where or 'The result'} does not have the fields of {self.kind.__name__}"
            raise LoadError(explain(asked, found=f"missing: {missing}; unused: {unused}"))
        values = {name: codec.unpack(plain[name], _below(where, name), parts) for name, codec in codecs.items()}
        try:
            return self.kind(**values)
        except (DigsiteError, TypeError, ValueError) as error:  # the class checks its own fields
            raise LoadError(explain(f"{where or 'The result'} is no {self.kind.__name__}", found=str(error))) from error


@cache
def _field_codecs(kind: type) -> dict[str, Codec]:
    hints = get_type_hints(kind)
    return {one.name: codec_for(hints[one.name]) for one in fields(kind) if one.init}


@dataclass(frozen=True)
class _ResultCodec(Codec):
    kinds: tuple[Any, ...]

    def pack(self, value: Any, where: str, parts: Parts) -> Any:
        if not isinstance(value, self.kinds):
            _cannot_write(value, " or ".join(kind.__name__ for kind in self.kinds), where)
        return {"schema": value.SCHEMA} | _FieldsCodec(type(value)).pack(value, where, parts)

    def unpack(self, plain: Any, where: str, parts: Parts) -> Any:
        if not isinstance(plain, dict) or not isinstance(plain.get("schema"), str):
            _cannot_read(plain, "a result with its schema", where)
        kind = class_of(plain["schema"], where or "The folder")
        if not issubclass(kind, self.kinds):
            _cannot_read(kind.__name__, " or ".join(kind.__name__ for kind in self.kinds), where)
        return _FieldsCodec(kind).unpack({key: plain[key] for key in plain if key != "schema"}, where, parts)


def _below(where: str, key: str) -> str:
    """The path of what is under `key`, escaped as in a JSON pointer (RFC 6901), so that no two values share a path."""
    escaped = key.replace("~", "~0").replace("/", "~1")
    return f"{where}/{escaped}" if where else escaped


def _show(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} and shape {list(value.shape)}"
    return f"{type(value).__name__} {str(value)[:60]!r}"


def _cannot_write(value: Any, expected: str, where: str) -> NoReturn:
    raise BadInput(explain(f"{where or 'The result'} cannot be saved: it should be {expected}", found=_show(value)))


def _cannot_read(plain: Any, expected: str, where: str) -> NoReturn:
    raise LoadError(explain(f"{where or 'The result'} cannot be read: it should be {expected}", found=_show(plain)))
