"""The meaning of every configuration key, read from the docstring under each field."""

import ast
import dataclasses
import inspect
import textwrap
import typing
from typing import Any


def _own_docs(cls: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            docs[ast.unparse(field.target)] = inspect.cleandoc(str(after.value.value))
    return docs


def _dataclasses_in(hint: Any) -> list[type]:
    """The dataclasses that a type annotation names: `Part`, `Part | None`, `tuple[Part, ...]`, `dict[str, Part]`."""
    if dataclasses.is_dataclass(hint):
        return [typing.cast(type, hint)]
    return [found for inner in typing.get_args(hint) for found in _dataclasses_in(inner)]


def field_docs(cls: type, prefix: str = "") -> dict[str, str]:
    """Dotted key -> docstring on one line, depth first; an undocumented field maps to an empty string."""
    own, hints = _own_docs(cls), typing.get_type_hints(cls)
    docs = {}
    for field in dataclasses.fields(cls):
        key = f"{prefix}{field.name}"
        docs[key] = " ".join(own.get(field.name, "").split())
        for inner in _dataclasses_in(hints[field.name]):
            docs |= field_docs(inner, f"{key}.")
    return docs
