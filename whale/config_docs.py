"""The meaning of every configuration key, read from the docstring under each field."""

import ast
import dataclasses
import inspect
import textwrap
import typing


def _own_docs(cls: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            docs[ast.unparse(field.target)] = inspect.cleandoc(str(after.value.value))
    return docs


def field_docs(cls: type, prefix: str = "") -> dict[str, str]:
    """Dotted key -> docstring, depth first; an undocumented field maps to an empty string."""
    own, hints = _own_docs(cls), typing.get_type_hints(cls)
    docs = {}
    for field in dataclasses.fields(cls):
        key = f"{prefix}{field.name}"
        docs[key] = own.get(field.name, "")
        nested = [t for t in (hints[field.name], *typing.get_args(hints[field.name])) if dataclasses.is_dataclass(t)]
        for inner in nested:
            docs |= field_docs(typing.cast(type, inner), f"{key}.")
    return docs
