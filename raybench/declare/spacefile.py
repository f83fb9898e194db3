"""A space file as text: finds it, reads YAML with line numbers, merges a size and overrides, locates errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from raybench.declare.bounds import Unfolded, check_aliases, check_length, read_bounded
from raybench.declare.configfile import read_config
from raybench.errors import UserError
from raybench.stores.storage import AnyPath, to_path
from raybench.text import suggest

Place = tuple[str, ...]
_LONGEST_NAME = 200  # characters of a file's or folder's name; file systems take 255 bytes, and paths of 4095
_SHIPPED = Path(__file__).parents[1] / "search_spaces"  # as installed from a wheel
_SOURCE_TREE = Path(__file__).parents[2] / "search_spaces"

# The key that tells a section's kinds apart, and its default.
_TAGS = {"kind": "throughput", "name": None, "engine": None}


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: `1e-4` is a number; a duplicate key and an impossible date are errors."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"{str(node.value)!r:.40} cannot be read as {node.tag.rpartition(':')[2]} ({error!s:.60})"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


@dataclass(frozen=True)
class SpaceFile:
    """A space file: its path, plain content, and the line of each key."""

    path: AnyPath
    content: dict[str, Any]
    lines: dict[Place, int] = field(default_factory=dict)
    overridden: dict[Place, str] = field(default_factory=dict)
    included: dict[Place, AnyPath] = field(default_factory=dict)  # places of sections that come from their own files

    @classmethod
    def find(cls, name_or_path: str) -> Self:
        """Read a space by name (from ./search_spaces, else the shipped ones) or by path."""
        if not name_or_path:
            raise UserError(f"space= is empty; {_known()}")
        if "\0" in name_or_path or max(map(len, [*name_or_path.split("/"), name_or_path[:-3800]])) > _LONGEST_NAME:
            raise UserError(f"{name_or_path!r:.60} is not a valid path; {_known()}")
        as_path = to_path(name_or_path)
        if as_path.suffix in (".yaml", ".yml"):
            if not as_path.is_file():
                raise UserError(f"{as_path}: no such space file")
            return cls.read(as_path)
        for folder in _folders():
            path = folder / f"{name_or_path}.yaml"
            if as_path.name == name_or_path and path.is_file():
                return cls.read(path)
        close = suggest(name_or_path, known_spaces())
        raise UserError(f"unknown space {name_or_path!r}; {close if close.endswith('?') else _known()}")

    @classmethod
    def read(cls, path: AnyPath) -> Self:
        """Read YAML with the line of each key. Raises UserError with file and line."""
        try:
            text = read_bounded(path)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read as text ({error})") from None
        try:
            check_length(text)
            root = yaml.compose(text, Loader=_Loader)
            lines: dict[Place, int] = {}
            if root is not None:
                check_aliases(root)
                _note_lines(root, (), lines, path)
            content = yaml.load(text, Loader=_Loader)  # noqa: S506  _Loader is a SafeLoader
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            problem = " ".join(str(getattr(error, "problem", None) or error).split())
            raise UserError(f"{path}{line}: not valid YAML: {problem}") from None
        except RecursionError:
            raise UserError(f"{path}: nested too deeply for a space") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
        if not isinstance(content, dict):
            raise UserError(f"{path}: a space is a mapping with setting:, arms: ...; this is {type(content).__name__}")
        return cls(path, content, lines)

    def sized(self, size: str = "") -> Self:
        """The file without its `sizes`, and with `sizes: {<size>: ...}` merged over it if a size is named.

        Mappings merge, lists and numbers are replaced. Raises UserError where the file has no such size.
        """
        sizes = self.content.get("sizes", {})
        if not isinstance(sizes, dict) or not all(isinstance(changes, dict) for changes in sizes.values()):
            raise self.error(("sizes",), "names sizes, each a mapping merged over the space: {small: {repeats: 3}}")
        content = {key: value for key, value in self.content.items() if key != "sizes"}
        for name, changes in sizes.items():
            for key in changes:
                if key == "sizes":
                    raise self.error(("sizes", str(name), key), "a size holds no sizes; take it out")
        if not size:
            return replace(self, content=content)
        if size not in sizes:
            known = suggest(size, map(str, sizes)) if sizes else "this space has none"
            raise UserError(f"size={size}: unknown to {self.path}; {known}")
        start = ("sizes", size)
        lines = {place[len(start) :]: line for place, line in self.lines.items() if place[: len(start)] == start}
        return replace(self, content=_merged(content, sizes[size]), lines={**self.lines, **lines})

    def merged(self, overrides: Mapping[str, str]) -> dict[str, Any]:
        """The content with `key=value` overrides merged in, as plain dicts and lists.

        An override of a setting's field also wins over the `variants`: it is merged into each that has the field. An
        override that changes a section's kind (`protocol.kind`, `optimizer.name`, an arm's `engine`) replaces the
        section: the file's values for the other kind are dropped.
        """
        try:
            config: Any = OmegaConf.create(self._with_configs(self.content))
        except OmegaConfBaseException as error:
            raise UserError(f"{self.path}: {error}") from None
        for key, value in sorted(overrides.items(), key=lambda one: one[0].rpartition(".")[2] not in _TAGS):
            place = tuple(key.split("."))
            self.overridden[place] = f"{key}={value}"
            try:
                check_length(value)
                if (root := yaml.compose(value, Loader=_Loader)) is not None:
                    check_aliases(root)
                given = OmegaConf.from_dotlist([f"{key}={value}"])
                _forget_other_kinds(config, given)
                config = OmegaConf.merge(config, given)
                if len(place) > 1 and place[0] == "setting" and OmegaConf.is_list(config.get("variants")):
                    within = OmegaConf.from_dotlist([f"{'.'.join(place[1:])}={value}"])
                    for index, variant in enumerate(config.variants):
                        if OmegaConf.is_dict(variant) and place[1] in variant:
                            _forget_other_kinds(variant, within)
                            config.variants[index] = OmegaConf.merge(variant, within)
            except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UserError(f"{key}={value:.200}: cannot be merged into {self.path}: {reason}") from None
        values = self._interpolated(config)
        assert isinstance(values, dict)
        return self._with_configs({str(key): value for key, value in values.items()})

    def _with_configs(self, content: dict[str, Any]) -> dict[str, Any]:
        """The content with each DeepSpeed arm's `config: FILE` replaced by the file's content.

        A relative path starts at this file's folder; in an override, first at the working folder.
        """
        arms = content.get("arms")
        if not isinstance(arms, dict):
            return content
        replaced = {}
        for name, arm in arms.items():
            if isinstance(arm, dict) and arm.get("engine") == "deepspeed" and isinstance(arm.get("config"), str):
                place = ("arms", str(name), "config")
                path, config, lines = self._read_config(place, arm["config"])
                self.included[place] = path
                self.lines.update({(*place, *key): line for key, line in lines.items()})
                replaced[name] = {**arm, "config": config}
        return {**content, "arms": {**arms, **replaced}} if replaced else content

    def _read_config(self, place: Place, name: str) -> tuple[AnyPath, dict[str, Any], dict[Place, int]]:
        """An arm's `config` file, its content, and the line of each of its keys."""
        folders = [Path.cwd()] if self.overrides(*place) else []
        paths = [folder / name for folder in [*folders, self.path.parent]]
        try:
            path = next((path for path in paths if len(name) < _LONGEST_NAME * 10 and path.is_file()), None)
        except (OSError, ValueError):
            path = None
        if path is None:
            raise self.error(place, f"no file {name!r:.80}; write a DeepSpeed config, or the path of one, relative to "
                             "the folder of this file")  # fmt: skip
        if path.suffix in (".yaml", ".yml"):
            file = SpaceFile.read(path)
            return path, file.content, file.lines
        config, text = read_config(path)
        lines: dict[Place, int] = {}
        try:
            root = yaml.compose(text.replace("\t", " "), Loader=_Loader)
            if root is not None:
                _note_lines(root, (), lines, path)
        except (yaml.YAMLError, RecursionError):  # JSON with comments, whose lines are unknown
            lines = {}
        return path, config, lines

    def _interpolated(self, config: Any) -> Any:
        """The merged content as plain values, each `${key.of.this.space}` replaced by its target."""
        plain: Any = OmegaConf.to_container(config, resolve=False)
        unfolded = Unfolded(plain)
        for place, value in [*_leaves(plain), ((), plain)]:
            try:
                unfolded.size(value)
            except ValueError as error:
                raise self.error(place, str(error)) from None
        try:
            return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            place = tuple(str(error.full_key or "").split("."))
            raise self.error(place, str(error).strip().splitlines()[0]) from None

    def existing(self, location: Place) -> Place:
        """`location` without parts that are not in the file: the tags of a union, the fields of a missing section."""
        place: Place = ()
        for part in location:
            if (*place, part) in self.lines or self.overrides(*place, part):
                place = (*place, part)
        return place

    def written_under(self, prefixes: Sequence[Place], *field: str) -> Place:
        """The first of `prefixes` under which `field` is written or overridden, else the first; () without prefixes.

        Overrides of the setting were merged into the variants, but count as written under the setting only.
        """
        for prefix in prefixes if field else ():
            place = (*prefix, *field)
            if self.existing(place) == place and not (prefix[0] == "variants" and self.overrides("setting", *field)):
                return prefix
        return prefixes[0] if prefixes else ()

    def overrides(self, *place: str) -> bool:
        """Whether an override changed this place or something below it."""
        return any(key[: len(place)] == place for key in self.overridden)

    def error(self, place: Place, message: str) -> UserError:
        """A UserError that names the place: the override, or file and line, and the key."""
        where = self.where(place)
        return UserError(
            f"{where}: {'.'.join(place)}: {message}" if place and where != str(self.path) else f"{where}: {message}"
        )

    def where(self, place: Place) -> str:
        """The override, or file and line, where a place is written, or else its nearest enclosing place."""
        for end in range(len(place), 0, -1):
            for key, text in self.overridden.items():
                if key[:end] == place[:end] and (len(key) <= len(place) or end == len(place)):
                    return text
            source = next((path for start, path in self.included.items() if place[: len(start)] == start), None)
            if place[:end] in self.lines:
                inside = source is not None and end > 3
                return f"{source if inside else self.path}:{self.lines[place[:end]]}"
        return str(self.path)


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings, unless they are of different kinds; replace anything else."""
    both = {
        key: (values[key], value)
        for key, value in changes.items()
        if isinstance(value, dict) and isinstance(values.get(key), dict) and not _is_another_kind(values[key], value)
    }
    return {**values, **changes, **{key: _merged(ours, theirs) for key, (ours, theirs) in both.items()}}


def _leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value that contains no others, with its place."""
    if isinstance(value, dict):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        yield place, value
        return
    for key, item in items:
        yield from _leaves(item, (*place, str(key)))


def _note_lines(node: yaml.Node, place: Place, lines: dict[Place, int], path: AnyPath) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key = (*place, str(key_node.value))
            if key in lines and not str(key_node.value).startswith("<<"):
                line = key_node.start_mark.line + 1
                raise UserError(f"{path}:{line}: {'.'.join(key)}: written twice, first in line {lines[key]}; keep one")
            lines[key] = key_node.start_mark.line + 1
            _note_lines(value_node, key, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*place, str(index))] = item.start_mark.line + 1
            _note_lines(item, (*place, str(index)), lines, path)


def _is_another_kind(ours: Any, theirs: Any) -> bool:
    return any(theirs.get(tag, same) != same for tag in _TAGS if (same := ours.get(tag, _TAGS[tag])) is not None)


def _forget_other_kinds(config: Any, given: Any) -> None:
    """Empty every section of `config` whose kind `given` changes."""
    for key in given:
        ours, theirs = config.get(key), given[key]
        if not OmegaConf.is_dict(ours) or not OmegaConf.is_dict(theirs):
            continue
        if _is_another_kind(ours, theirs):
            config[key] = {}
        else:
            _forget_other_kinds(ours, theirs)


def _folders() -> list[Path]:
    return [Path.cwd() / "search_spaces", _SHIPPED, _SOURCE_TREE]


def known_spaces() -> list[str]:
    """The names that `space=` accepts here; paths are accepted too."""
    return sorted({file.stem for folder in _folders() for file in folder.glob("*.yaml")})


def _known() -> str:
    return f"known: {', '.join(known_spaces()) or 'none here'}; or give the path of a .yaml file"
