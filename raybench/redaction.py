"""Removes secrets from addresses and messages: the passwords, tokens and keys that they may contain.

A secret cannot be recognized in arbitrary text. So it removes the value of each environment variable whose name marks
it as a secret, the password in any variable that holds an address, and the userinfo of every address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

# WANDB_API_KEY, HF_TOKEN, AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_PASSWORD ...; PWD is a folder.
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|(?:ACCESS|ACCOUNT|PRIVATE|SECRET|STORAGE)_KEY)(?:_|$)"
)
# ... but not AWS_WEB_IDENTITY_TOKEN_FILE or RAY_AUTH_TOKEN_PATH, which name a secret's location.
_PLACE_NAME = re.compile(r"_(?:FILE|PATH|DIR|URL|URI|MODE|ENDPOINT)$")
_SHORTEST_SECRET = 4  # characters; shorter values are no secrets, and would occur in any word
# user:password@ of an address, up to its last @, because a password may contain an unescaped one.
_USERINFO = re.compile(r"(?<=://)[^\s/]*@")
# The same for a store whose secret key contains an unescaped slash.
_KEY_AND_SECRET = re.compile(r"(?<=s3://)[^\s/@:]+:[^\s@]*@")
_PASSWORD = re.compile(r"://[^\s/:]*:([^\s/]+)@")
_SECRET_FIELD = re.compile(r"(?i)(?<=[?&])([\w\-]*(?:password|token|secret|signature|api_?key)=)[^&\s#]+")


def without_secrets(text: str) -> str:
    """The text without the user names and passwords of addresses, and without the environment's secrets."""
    for secret in _secrets():
        text = text.replace(secret, "***")
    return _SECRET_FIELD.sub(r"\1***", _USERINFO.sub("", _KEY_AND_SECRET.sub("", text)))


def first_line(error: BaseException) -> str:
    """An error's message in one line, without secrets."""
    text = without_secrets(str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _secrets() -> list[str]:
    """Every secret of the environment in all its forms, the longest first, because one may contain another."""
    found = {form for one in _values() for form in (one, unquote(one), quote(one, safe=""), repr(one)[1:-1])}
    return sorted((form for form in found if len(form) >= _SHORTEST_SECRET), key=len, reverse=True)


def _values() -> Iterator[str]:
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name.upper()) and not _PLACE_NAME.search(name.upper()):
            yield value.strip()
        yield from _PASSWORD.findall(value)
