"""A space as JSON Schema (draft 2020-12), for editors: derived from the models that validate a space.

It covers keys, types and ranges. Errors that only show in the whole space (a batch that the workers do not divide, arms
that differ undeclared) are left to `raybench plan`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from raybench.declare import schema
from raybench.declare.setting import Setting, Strict
from raybench.declare.space import Space

Schema = dict[str, Any]
_REFERENCE: Final = {"type": "string", "pattern": r"\$\{.+\}"}  # to another key's value
_SPELLED: Final = {"type": ["string", "boolean", "number"]}  # texts that a field's own validator converts
_PART: Final = "Part"  # suffix of definitions in which nothing is required


def space_schema() -> Schema:
    """The schema of a space file, with the keys of the installed DeepSpeed."""
    definitions: Schema = {}
    whole = _object(Space, definitions)
    setting = _object(Setting, definitions)
    definitions["Setting"] = {**setting, "properties": _axes(setting["properties"]), "required": []}
    _object_of(definitions["DeepSpeedArm"], "config", _deepspeed())
    for name in ("TorchArm", "FsdpArm", "DeepSpeedArm", "ScriptArm"):
        _object_of(definitions[name], "setting", {**setting, "required": []})
    properties = whole["properties"]
    properties["setting"] = {"$ref": "#/$defs/Setting"}
    properties["variants"] = {"type": "array", "items": {"$ref": "#/$defs/Setting"}}
    properties["arms"]["minProperties"] = 2
    definitions |= {f"{name}{_PART}": _part(one) for name, one in copy.deepcopy(definitions).items()}
    size = _part({**copy.deepcopy(whole), "description": "What this size changes."})
    size["properties"]["arms"].pop("minProperties")
    properties["sizes"] = {"type": "object", "additionalProperties": size, "description": "Taken with size=NAME."}
    return {
        **whole,
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A space of raybench",
        "required": ["setting", "arms"],
        "$defs": definitions,
    }


def _object(model: type[BaseModel], definitions: Schema) -> Schema:
    """A model's own schema; those of nested models go to `definitions`."""
    whole = model.model_json_schema()
    named = {one.__name__: one for one in _models(Strict)}
    for name, inner in whole.pop("$defs", {}).items():
        definitions[name] = _loosened(inner, named[name])
    return _loosened(whole, model)


def _models(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for one in base.__subclasses__():
        yield one
        yield from _models(one)


def _loosened(one: Schema, model: type[BaseModel]) -> Schema:
    """A model's schema, extended by what a file may say instead of the values: references, and spellings that a field's
    validator reads (`optimizer: sgd`, `memory_limit: 2GiB`)."""
    spelled = {
        field
        for validator in model.__pydantic_decorators__.field_validators.values()
        if validator.info.mode == "before"
        for field in validator.info.fields
    }
    properties = {
        name: _either(value, *([_SPELLED] if name in spelled else []), _REFERENCE)
        if value.get("type") not in ("string", "object", "array") or "enum" in value
        else value
        for name, value in one["properties"].items()
    }
    for name in spelled & set(properties):
        if properties[name].get("additionalProperties"):  # a mapping of texts, in which numbers become texts
            properties[name] = {**properties[name], "additionalProperties": _SPELLED}
    return {**one, "properties": properties}


def _either(*several: Schema) -> Schema:
    about: Schema = {key: several[0][key] for key in ("title", "description", "default") if key in several[0]}
    return {**about, "anyOf": [{key: value for key, value in one.items() if key not in about} for one in several]}


def _axes(properties: Mapping[str, Schema]) -> Schema:
    """Each field of the setting as a value or as a list of values."""
    return {
        name: _either(value, {"type": "array", "minItems": 1, "items": value}) for name, value in properties.items()
    }


def _object_of(one: Schema, name: str, value: Schema) -> None:
    one["properties"][name] = value


def _deepspeed() -> Schema:
    """A DeepSpeed config, or the path of one."""
    keys = _section({"keys": schema.schema()["keys"], "kinds": ["mapping"]})
    return {"anyOf": [{"type": "string", "description": "the path of a DeepSpeed config"}, keys]}


def _section(spec: Mapping[str, Any]) -> Schema:
    """One of DeepSpeed's keys; raybench checks the values, an editor needs names and choices."""
    if "keys" not in spec:
        return {"enum": [*spec["choices"], "auto"]} if spec["kinds"] == ["choice"] else {}
    properties = {key: _section(inner) for key, inner in spec["keys"].items()}
    kinds = ["object", *(["null"] if "null" in spec["kinds"] else [])]
    return {"type": kinds, "properties": properties, "additionalProperties": bool(spec.get("free"))}


def _part(one: Any) -> Any:
    """A schema for changes to an object: nothing is required, and references lead to such schemas."""
    if isinstance(one, list):
        return [_part(item) for item in one]
    if not isinstance(one, dict):
        return one
    changed = {"anyOf" if key == "oneOf" else key: _part(value) for key, value in one.items() if key != "required"}
    changed.pop("discriminator", None)
    if isinstance(changed.get("$ref"), str):
        changed["$ref"] += _PART
    return changed
