"""Typed configuration: frozen dataclasses, YAML files left to right, then dotted overrides.

Every error of a file is reported at once, each with its full key path and the nearest known key. Nothing else feeds a
configuration: no environment variables, no interpolation, no defaults at the point of use.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from whale.errors import UserError

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def configclass(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass whose unknown keys are errors."""
    cls.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a repeated key, and reads scalars as YAML 1.2 does: 3e-4 is a float, off is a string."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes every string that `_Loader` would read as something else."""


# The scalars of YAML 1.2's core schema, in the order in which they are tried, and underscores between digits.
_SCALARS = {
    "null": (r"~|null|", ["~", "n", ""]),
    "bool": (r"[tT]rue|[fF]alse", [*"tTfF"]),
    "int": (r"[-+]?(0|[1-9][\d_]*|0x[\da-fA-F]+)", [*"-+0123456789"]),
    "float": (r"[-+]?((\d[\d_]*\.\d*|\.\d+)([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.inf)|\.nan", [*"-+0123456789."]),
    "merge": (r"<<", ["<"]),
}
_Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_pattern})$"), _first)


def _read_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not valid YAML: {error}", "correct the line named above") from None


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value


def _members(hint: Any) -> list[Any]:
    """What a union may hold besides None; of another type, itself."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return [hint]
    return [member for member in typing.get_args(hint) if member is not type(None)]


def _locate(cls: type, location: Sequence[str | int]) -> tuple[list[str | int], list[str], bool]:
    """Where in the file an error of pydantic's lies.

    Returns its path, the keys known beside its last one, and whether it says that a member of a union did not fit.
    """
    path: list[str | int] = []
    here: Any = cls
    known: list[str] = []
    misfit = False
    for key in location:
        members = _members(here)
        if len(members) > 1:  # here pydantic names the member that it tried
            here = next((member for member in members if getattr(member, "__name__", None) == key), None)
            misfit = True
            continue
        inner, is_fields = members[0], dataclasses.is_dataclass(members[0])
        known = [field.name for field in dataclasses.fields(inner)] if is_fields else []
        if is_fields:
            here = typing.get_type_hints(inner).get(str(key))
        else:  # the element of a list, tuple or dict
            here = next((arg for arg in typing.get_args(inner) if dataclasses.is_dataclass(arg)), None)
        path.append(key)
        misfit = False
    return path, known, misfit


def _explain(cls: type, error: ValidationError) -> list[str]:
    located = [(*_locate(cls, item["loc"]), item) for item in error.errors()]
    lines = []
    for path, known, misfit, item in located:
        if misfit and any(other[: len(path)] == path and len(other) > len(path) for other, *_ in located):
            continue  # another member of the union fits, but for the errors listed with their own paths
        where = ".".join(map(str, path)) or "(the whole file)"
        if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            near = difflib.get_close_matches(str(path[-1]), known, 1)
            lines.append(f"{where}: unknown key" + (f"; did you mean {near[0]!r}?" if near else ""))
        elif item["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
            lines.append(f"{where}: required, but not given")
        elif item["type"] == "value_error":  # raised by a __post_init__
            lines.append(f"{where}: {item['ctx']['error']}")
        else:
            lines.append(f"{where}: {item['msg']} (got {item['input']!r})")
    return lines


def build_config(cls: type[T], values: dict[str, Any], source: str) -> T:
    """Validate `values` against the dataclass `cls`; every error at once."""
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        lines = _explain(cls, error)
        raise UserError(
            "\n  - ".join([f"the configuration ({source}) has {len(lines)} error(s):", *lines]),
            "correct the keys above; `whale <stage> <task> --help` lists every key with its meaning",
        ) from None


def load_config(cls: type[T], files: Sequence[Path], overrides: Sequence[str] = ()) -> T:
    """Read YAML files left to right, then `key.path=value` overrides, into the dataclass `cls`.

    Raises:
        UserError: a file is missing or not a YAML mapping, an override has no `=`, or any key or value is wrong.
    """
    values: dict[str, Any] = {}
    for file in files:
        if not file.is_file():
            raise UserError(f"there is no configuration file {file}", "check the path; those shipped are in configs/")
        content = _read_yaml(file.read_text(encoding="utf-8"), str(file))
        if content is not None and not isinstance(content, dict):
            raise UserError(f"{file} holds a {type(content).__name__}, not a mapping of keys", "write `key: value`")
        values = _merge(values, content or {})
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UserError(f"the override {override!r} is not of the form key.path=value", "write for example seed=1")
        values = _merge(values, _nested(key, _read_yaml(text, f"the override {override!r}")))
    return build_config(cls, values, ", ".join([*map(str, files), *overrides]) or "defaults")


def to_values(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values, which `build_config` reads back equal."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def dump_config(config: Any) -> str:
    """A configuration as YAML, which `load_config` reads back equal."""
    return yaml.dump(to_values(config), Dumper=_Dumper, sort_keys=False, width=120)
