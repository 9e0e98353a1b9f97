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

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())

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
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
    except yaml.YAMLError as error:
        return f"--set {override}: the value is not readable as YAML: {error}"
    return None


def _problems(model: type[Config], error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        location = [part for part in item["loc"] if not _is_union_tag(part, item["loc"], model)]
        where = ".".join(str(part) for part in location)
        if item["type"] == "extra_forbidden":
            names = _field_names(model, item["loc"][:-1])
            near = difflib.get_close_matches(str(item["loc"][-1]), names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(names))}"
            yield f"{where}: unknown key; {hint}"
        elif item["type"] == "missing":
            yield f"{where}: missing; it has no default"
        else:
            found = item["input"]
            shown = repr(found) if len(repr(found)) <= 80 else f"{repr(found)[:77]}..."
            yield f"{where or 'the file'}: {item['msg']}; found {shown}"


def _variants(annotation: Any) -> Iterator[type[Config]]:
    """Configuration models inside an annotation: unions, lists and Annotated are looked through."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _variants(inner)


def _descend(model: type[Config], location: Sequence[Any]) -> list[type[Config]]:
    """The models that may stand at `location` (field names, list indices and union tags)."""
    models = [model]
    for part in location:
        inner = [
            variant
            for candidate in models
            if part in candidate.model_fields
            for variant in _variants(candidate.model_fields[part].annotation)
        ]
        if inner:
            models = inner
        else:
            tagged = [m for m in models if _tag(m) == part]
            models = tagged or models
    return models


def _tag(model: type[Config]) -> Any:
    kind = model.model_fields.get("kind")
    return None if kind is None else kind.default


def _field_names(model: type[Config], location: Sequence[Any]) -> list[str]:
    return sorted({name for found in _descend(model, location) for name in found.model_fields})


def _is_union_tag(part: Any, location: Sequence[Any], model: type[Config]) -> bool:
    position = list(location).index(part)
    before = _descend(model, location[:position])
    return (
        isinstance(part, str) and part in {_tag(m) for m in before} and not any(part in m.model_fields for m in before)
    )
