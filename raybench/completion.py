"""Shell completion: commands, options, spaces, sizes, keys, models, datasets, arms, ledgers.

    raybench completion bash|zsh|fish         prints the script for a shell

The script calls `raybench complete LINE` at each press of the key, so that it knows the spaces and ledgers here. That
must be fast: it imports only yaml and the catalog. The keys of a command come from `raybench.manuals`, those of a space
from the source of its classes, because importing pydantic alone would take too long.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from raybench.cli import parse_arguments
from raybench.errors import UserError
from raybench.manuals import COMMANDS, MANUALS
from raybench.text import suggest

_HERE = Path(__file__).parent
_RESULTS = Path("mlruns/ledger")
_SOURCES = ("setting.py", "space.py", "protocol.py")
_SECTIONS = {"setting": ("Setting",), "protocol": ("Throughput", "Train"), "question": ("Question",)}
_NAMED = {"setting.optimizer": ("Sgd", "Adam", "Lamb"), "setting.schedule": ("Schedule",)}  # a name alone will do
_ARM_KEYS = ("baseline", "arm", "ladder")

SCRIPTS = {
    "bash": r"""
_raybench() {
    local line=${COMP_LINE:0:COMP_POINT} IFS=$'\n'
    local word=${line##* }
    COMPREPLY=($(raybench complete "$line" 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
    # bash takes = and : for ends of words: what stands before the last one is there already
    local there=${word%"${word##*[=:]}"}
    [[ $COMP_WORDBREAKS == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"$there"}")
}
complete -o default -F _raybench raybench
""",
    "zsh": r"""
_raybench() {
    local -a found open
    found=("${(@f)$(raybench complete "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    found=(${found:#})
    (( $#found )) || { _files; return }
    open=(${(M)found:#*[=./]})
    found=(${found:#*[=./]})
    compadd -Q -S '' -- $open
    compadd -Q -- $found
}
compdef _raybench raybench
""",
    "fish": r"""
complete -c raybench -f -a '(raybench complete (commandline -cp | string collect))'
""",
}


def main(argv: list[str]) -> int:
    """Print a shell's script. Returns 0; raises UserError for an unsupported shell."""
    arguments = parse_arguments("completion", argv)
    shell = arguments.positionals[0]
    if shell not in SCRIPTS:
        raise UserError(f"no completion for {shell!r}; {suggest(shell, SCRIPTS)}")
    print(SCRIPTS[shell].strip())
    return 0


def complete(line: str) -> list[str]:
    """The completions of the last word of a command line, typed up to the cursor."""
    words = line.split()[1:] + ([""] if line[-1:].isspace() else [])
    if not words:
        return []
    *before, word = words
    if not before:
        return _fitting(word, [*COMMANDS, "help", "--help", "--version"])
    command = before[0]
    if command == "help":
        return _fitting(word, COMMANDS)
    if command not in COMMANDS:
        return []
    key, equals, value = word.partition("=")
    if word.startswith("-"):
        return _fitting(word, _options(command))
    if equals:
        head, start = _list_item(value)
        return [f"{key}={head}{item}" for item in _fitting(start, _values(command, key, before, start))]
    if command == "completion":
        return _fitting(word, SCRIPTS)
    return _fitting(word, [*_keys(command, before, word), *_ledgers(command, word)])


def _fitting(start: str, words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(word for word in words if word.startswith(start)))


def _list_item(value: str) -> tuple[str, str]:
    """For `[a,b` or `a,b`: the text before the item being typed, and the item's beginning."""
    end = max(value.rfind(","), value.rfind("[")) + 1
    return value[:end], value[end:]


def _options(command: str) -> list[str]:
    return [*(f"--{flag.name}" for flag in MANUALS[command].flags), "--help"]


def _keys(command: str, before: list[str], word: str) -> Iterator[str]:
    """The keys of a command, including those of the space; a section's keys only after the section's name."""
    yield from (f"{key.name}=" for key in MANUALS[command].keys)
    if not MANUALS[command].takes_space:
        return
    section = word.partition(".")[0]
    if section == "arms" and "." in word:
        yield from (f"arms.{arm}." for arm in _mapping(_space(before), "arms"))
    elif "." in word:
        yield from (f"{section}.{name}=" for of in _SECTIONS.get(section, ()) for name in _fields().get(of, {}))
    else:
        yield from (f"{name}." for name in (*_SECTIONS, "arms"))
        yield from (f"{name}=" for name in _fields()["Space"] if name not in (*_SECTIONS, "arms", "variants"))


def _values(command: str, key: str, before: list[str], start: str) -> Iterable[str]:
    """The possible values of a key, if known."""
    if key == "space":
        return [*_space_names(), *_paths(start, "*.y*ml")]
    if key == "size":
        return map(str, _mapping(_space(before), "sizes"))
    if key in ("results", "out", "ledger"):
        return _paths(start, "")
    if key == "isolation" and command == "calibrate":
        return ["shared", "both"]
    if key == "retry":
        from raybench.ledger.outcome import FAILURE_KINDS

        return ["failed", *FAILURE_KINDS]
    if key in _ARM_KEYS:
        takes_space = MANUALS[command].takes_space
        spaces = [_space(before)] if takes_space else [_read(path) for path in _spaces_of_ledgers(before)]
        return [str(arm) for space in spaces for arm in _mapping(space, "arms")]
    if key in ("model", "setting.model", "setting.dataset", "dataset"):
        from raybench.declare import catalog, datasets, texts

        return sorted(catalog.known_models() if key.endswith("model") else [*datasets.DATASETS, *texts.TEXTS])
    if key in _NAMED:
        return [value for name in _NAMED[key] for value in _fields()[name]["name"]]
    section, _, name = key.rpartition(".")
    classes = _SECTIONS.get(section, ("Space",) if not section else ())
    return [value for of in classes for value in _fields().get(of, {}).get(name, ())]


@cache
def _fields() -> dict[str, dict[str, tuple[str, ...]]]:
    """Class -> field -> the values listed in its type, for setting, space and protocol."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    aliases: dict[str, tuple[str, ...]] = {}
    for name in _SOURCES:
        for node in ast.parse((_HERE / "declare" / name).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                aliases[node.targets[0].id] = _literals(node.value, aliases)
            elif isinstance(node, ast.ClassDef):
                found[node.name] = {
                    line.target.id: _literals(line.annotation, aliases)
                    for line in node.body
                    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
                }
    return found


def _literals(node: ast.expr, aliases: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The values of a Literal, of bool, and of an alias or a union of these."""
    if isinstance(node, ast.Name):
        return ("true", "false") if node.id == "bool" else aliases.get(node.id, ())
    if isinstance(node, ast.BinOp):
        return _literals(node.left, aliases) + _literals(node.right, aliases)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return tuple(str(item.value) for item in items if isinstance(item, ast.Constant))
    return ()


def _folders() -> list[Path]:
    """Where spaces lie: as in raybench.declare.spacefile."""
    return [Path("search_spaces"), _HERE / "search_spaces", _HERE.parent / "search_spaces"]


def _space_names() -> list[str]:
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")})


def _space(before: list[str]) -> Any:
    """The content of the space that the line names; None if it cannot be read."""
    name = next((word.partition("=")[2] for word in before if word.startswith("space=")), "")
    paths = [Path(name)] if name.endswith((".yaml", ".yml")) else [folder / f"{name}.yaml" for folder in _folders()]
    return next((_read(path) for path in paths if name and path.is_file()), None)


def _read(path: Path) -> Any:
    import yaml

    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return yaml.load(path.read_text(encoding="utf-8"), loader)  # noqa: S506  both are safe
    except (OSError, ValueError, yaml.YAMLError):
        return None  # the command itself reports the error


def _mapping(content: Any, key: str) -> dict[Any, Any]:
    found = content.get(key) if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def _spaces_of_ledgers(before: list[str]) -> list[Path]:
    """The spaces beside the ledgers that the line names."""
    return [path for word in before[1:] if "=" not in word for path in sorted(Path(word).glob("_space.yaml"))]


def _ledgers(command: str, word: str) -> list[str]:
    """Ledgers in the results folder for a command that takes one, and folders as they are typed."""
    takes = MANUALS[command].positionals
    if takes is None or takes.metavar not in ("LEDGER", "A B"):
        return []
    known = sorted({str(path.parent) for path in _RESULTS.glob("*/*/_space.yaml")})
    return [*known, *_paths(word, "")]


def _paths(start: str, pattern: str) -> list[str]:
    """Completions of a path: folders, with a slash, and files that match a pattern."""
    folder = start.rpartition("/")[0]
    root = Path(folder or ("/" if start.startswith("/") else "."))
    if not root.is_dir():
        return []
    prefix = start[: len(start) - len(start.rpartition("/")[2])]
    folders = [f"{prefix}{path.name}/" for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(folders) + sorted(f"{prefix}{path.name}" for path in (root.glob(pattern) if pattern else ()))


if __name__ == "__main__":
    from raybench.cli import run_command

    run_command(main)
