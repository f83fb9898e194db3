"""Passwords stay where they are: addresses and messages without the secrets that they may carry."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote

_SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
# user:password@ of an address, up to its last @: a password may hold one that nobody escaped.
_USERINFO = re.compile(r"(?<=://)[^\s/]*@")
# The same of a store whose secret key holds a slash that nobody escaped.
_KEY_AND_SECRET = re.compile(r"(?<=s3://)[^\s/@:]+:[^\s@]*@")


def without_secrets(text: str) -> str:
    """The text with user names and passwords of addresses, and MLflow's own secrets, taken out."""
    for name in _SECRET_VARIABLES:
        secret = os.environ.get(name)
        if secret:
            for form in {secret, unquote(secret), quote(secret, safe="")}:
                text = text.replace(form, "***")
    return _USERINFO.sub("", _KEY_AND_SECRET.sub("", text))


def first_line(error: Exception) -> str:
    """What an error says, in one line, without secrets."""
    text = str(error).strip()
    return without_secrets(text.splitlines()[0] if text else type(error).__name__)
