"""Ray's tokens: whether a cluster requires one, whether this process has it; and a token for our own Ray."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import grpc
import ray

from raybench.cluster import ray_private
from raybench.errors import UserError

_MODE = "RAY_AUTH_MODE"
_ASKED_FOR = os.environ.get(_MODE, "").lower()  # by the user
_TOKEN_FILE = Path(".ray") / "auth_token"  # in the home folder
_ANSWER_SECONDS = 5.0


def agree_with(address: str) -> None:
    """Adopt the authentication mode of the Ray cluster at HOST:PORT.

    When one side lacks a token, Ray itself only reports a missing header, minutes later or never. Raises UserError
    where the cluster requires a token that this process lacks, and where it has no tokens while RAY_AUTH_MODE asks for
    them. Changes nothing where no cluster answers.
    """
    wants = _refuses(address, token="")
    if wants is None:
        return
    if wants:
        _check_token(address)
    elif _ASKED_FOR == "token":
        raise UserError(
            f"the Ray cluster at {address} runs without a token, but RAY_AUTH_MODE=token requires one: start it with "
            "RAY_AUTH_MODE=token on every node, or unset RAY_AUTH_MODE here if everyone who can reach it may use it"
        )
    set_mode("token" if wants else "disabled")


def _check_token(address: str) -> None:
    """Raise UserError where the cluster, which requires a token, would reject this process's."""
    wants = f"the Ray cluster at {address} wants a token"
    remedy = "copy ~/.ray/auth_token from its head to the same place here, or name the file in RAY_AUTH_TOKEN_PATH"
    if _ASKED_FOR not in ("", "token"):
        raise UserError(f"{wants}, but RAY_AUTH_MODE={_ASKED_FOR} here sends none: set RAY_AUTH_MODE=token")
    try:
        token = ray_private.authentication_token()
    except ray.exceptions.AuthenticationError as error:
        raise UserError(f"{wants}, and it cannot be read: {error.message}") from None
    if not token:
        raise UserError(f"{wants}, and there is none here: {remedy}")
    if _refuses(address, token):
        raise UserError(f"{wants}, but {_source()} holds a different one: {remedy}")


def _source() -> str:
    """Where Ray takes this process's token from."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    return os.environ.get("RAY_AUTH_TOKEN_PATH") or f"~/{_TOKEN_FILE}"


def _refuses(address: str, token: str) -> bool | None:
    """Whether a Ray head rejects this token (empty: none); None where no head answers."""
    shown = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(ray_private.CLUSTER_ID_METHOD)(b"", timeout=_ANSWER_SECONDS, metadata=shown)
        except grpc.RpcError as error:
            return True if error.code() == grpc.StatusCode.UNAUTHENTICATED else None
        return False


def set_mode(mode: str) -> None:
    """Set Ray's authentication mode, `token` or `disabled`, for this process and its children."""
    os.environ[_MODE] = mode
    ray_private.read_authentication_mode()


def make_token() -> None:
    """Make a private token for a Ray started here, and set the mode; a token that Ray makes is readable by everybody.

    The user's settings win: a RAY_AUTH_MODE other than `token`, and a token kept elsewhere.
    """
    if _ASKED_FOR not in ("", "token"):
        set_mode(_ASKED_FOR)
        return
    if not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")):
        try:
            _write_token(Path.home() / _TOKEN_FILE)
        except (OSError, RuntimeError):  # no usable home folder: a token for this Ray alone
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        ray_private.forget_authentication_token()
    set_mode("token")


def _write_token(path: Path) -> None:
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = path.with_name(f".auth_token.{os.getpid()}.writing")
        aside.touch(mode=0o600)
        aside.write_text(secrets.token_hex(32), encoding="ascii")
        with contextlib.suppress(FileExistsError):  # another sweep wrote it first
            os.link(aside, path)
        aside.unlink()
