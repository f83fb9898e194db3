"""A DeepSpeed config file: JSON, or JSON with comments, which DeepSpeed's own reader (hjson) accepts."""

from __future__ import annotations

import json
from typing import Any

from raybench.declare.bounds import check_length, read_bounded
from raybench.errors import UserError
from raybench.stores.storage import AnyPath


def read_config(path: AnyPath) -> tuple[dict[str, Any], str]:
    """The mapping in a file, and the file's text. Raises UserError naming the file, and the line where one is known."""
    try:
        text = read_bounded(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a DeepSpeed config ({error})") from None
    try:
        check_length(text)
        content = _loads(text)
    except RecursionError:
        raise UserError(f"{path}: nested too deeply for a DeepSpeed config") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a DeepSpeed config is a mapping, as in {{...}}; this is {type(content).__name__}")
    return content, text


def _loads(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        import hjson

        try:
            content = hjson.loads(text, object_pairs_hook=_once)
        except hjson.HjsonDecodeError:
            raise error from None
        if not isinstance(content, dict):  # hjson turns anything into a text
            raise
        return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is written twice; keep one")
    return dict(pairs)
