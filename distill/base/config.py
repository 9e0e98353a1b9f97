"""Configuration files: YAML in, validated models out, every problem reported at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from distill.base.errors import ConfigError, FileError
from distill.base.fingerprint import content_digest


class _Marker:
    """Says what a field means for the identity of an artifact."""

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning


EXECUTION = _Marker("where and how the work runs: never part of the identity")
CONTENT = _Marker("a file or folder: what it holds is the identity, not where it lies")

DataPath = Annotated[Path, CONTENT]
ModelName = Annotated[str, CONTENT]  # a folder, or a name on the hub (then the name itself is the identity)


class Config(BaseModel):
    """Base of all configuration models: frozen, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )

    def identity(self) -> dict[str, Any]:
        """The part that changes results, as plain data: without execution fields, with digests for paths."""
        return {
            name: _identity_of(getattr(self, name), info)
            for name, info in type(self).model_fields.items()
            if not _marked(info, EXECUTION)
        }


def _marked(info: FieldInfo, marker: _Marker) -> bool:
    """Whether the field, or a variant of it (`ModelName | None`), carries the marker."""
    variants = getattr(info.annotation, "__args__", ())
    return marker in info.metadata or any(marker in getattr(variant, "__metadata__", ()) for variant in variants)


def _identity_of(value: Any, info: FieldInfo | None = None) -> Any:
    if isinstance(value, Config):
        return value.identity()
    if info is not None and _marked(info, CONTENT) and value is not None:
        path = Path(value)
        return {"content": content_digest(path)} if path.exists() else str(value)
    if isinstance(value, Mapping):
        return {key: _identity_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_identity_of(item) for item in value]
    return value


ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(model: type[ConfigT], path: Path, overrides: Sequence[str] = ()) -> ConfigT:
    """Read a YAML file, apply `a.b=c` overrides, validate.

    Raises:
        FileError: the file is missing or no YAML mapping.
        ConfigError: lists every unknown key (with the nearest known name) and every wrong value.
    """
    data = read_yaml(path)
    problems = [problem for override in overrides if (problem := _override(data, override))]
    try:
        config = model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(str(path), problems + list(_problems(model, error))) from None
    if problems:
        raise ConfigError(str(path), problems)
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        FileError: the file is missing, no YAML, or holds something else.
    """
    if not path.is_file():
        raise FileError(f"{path}: no such file. Give the path of a configuration, for example configs/demo.yaml")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FileError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(data, dict):
        raise FileError(f"{path}: holds {type(data).__name__}, expected a mapping of stage names to settings")
    return data


def _override(data: dict[str, Any], override: str) -> str | None:
    """Apply one `a.b=c` in place; returns the problem, if any."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        return f"--set {override}: expected KEY=VALUE with a dotted key, for example student.learning_rate=1e-4"
    *parents, last = key.split(".")
    place = data
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            return f"--set {override}: {parent!r} is {inner!r}, which has no fields"
        place = inner
    try:
        place[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return f"--set {override}: the value is not readable as YAML: {error}"
    return None


def _problems(model: type[Config], error: ValidationError) -> Iterator[str]:
    found = [(_walk(model, item["loc"]), item) for item in error.errors(include_url=False)]
    for (where, models), item in found:
        deeper = any(other[: len(where)] == where and len(other) > len(where) for (other, _), _ in found)
        if deeper and item["type"] == "string_type":
            continue  # a mapping was given where a name may stand too: what is wrong inside it is the finding
        yield _sentence(".".join(map(str, where)), models, item)


def _sentence(where: str, models: Sequence[type[Config]], item: Any) -> str:
    if item["type"] == "extra_forbidden":
        names = sorted({name for variant in models for name in variant.model_fields})
        near = difflib.get_close_matches(str(item["loc"][-1]), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names)}"
        return f"{where}: unknown key; {hint}"
    if item["type"] == "missing":
        return f"{where}: missing; it has no default"
    shown = repr(item["input"])
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return f"{where or 'the file'}: {item['msg']}; found {shown}"


def _walk(model: type[Config], location: Sequence[Any]) -> tuple[tuple[Any, ...], list[type[Config]]]:
    """The location as a user wrote it, without pydantic's names of union variants, and the models that stand there."""
    where: list[Any] = []
    models = [model]
    holders = models
    for position, part in enumerate(location):
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        named = [m for m in models if part == _tag(m) or m.__name__ in str(part)]
        if fields:
            where.append(part)
            holders, models = models, [variant for field in fields for variant in _variants(field.annotation)]
        elif named:
            models = named
        elif isinstance(part, int) or (position == len(location) - 1 and part != "str"):
            where.append(part)
            holders = models
    return tuple(where), holders if where and where[-1] == location[-1] else models


def _variants(annotation: Any) -> Iterator[type[Config]]:
    """Configuration models inside an annotation: unions, lists and Annotated are looked through."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _variants(inner)


def _tag(model: type[Config]) -> Any:
    kind = model.model_fields.get("kind")
    return None if kind is None else kind.default
