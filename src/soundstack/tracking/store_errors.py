"""What the troubles of a tracking store and of disks mean for the user: one line that says what to mend."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import requests
from mlflow.exceptions import MlflowException
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from soundstack.utils.errors import SoundstackError, StoreError


class LostStoreError(StoreError):
    """The tracking store is out of reach: nothing more can be written to it now."""


@contextmanager
def explained() -> Iterator[None]:
    """Turn trouble with the store, a full disk and missing rights into a StoreError; let everything else through."""
    try:
        yield
    except Exception as error:
        told = None if isinstance(error, SoundstackError) else trouble(error)
        if told is None:
            raise
        raise told from error


def trouble(error: BaseException) -> StoreError | None:
    """Say in one line what went wrong with the store or a disk; ``None`` if that is not what went wrong."""
    name, number = getattr(error, "filename", None), error.errno if isinstance(error, OSError) else None
    # Whoever writes has an error type of their own; what the system says is in all of them.
    full = (errno.ENOSPC, errno.EDQUOT)
    if number in full or any(said in str(error) for said in (*map(os.strerror, full), "database or disk is full")):
        return StoreError(f"No space left on the disk{f' of {name}' if name else ''}. Free space{_full_folders()}.")
    if _is_lost(error):
        store = without_password(mlflow.get_tracking_uri())
        return LostStoreError(f"The tracking store {store} cannot be used any more ({reason(error)}).")
    if isinstance(error, OSError) and number in (errno.EROFS, errno.EACCES, errno.EPERM) and name:
        return StoreError(f"{name} cannot be written ({error.strerror}); mend its rights.")
    return None


def reason(error: BaseException) -> str:
    """Why a store was not reached: in plain words, or the first line of what the error says."""
    text = first_line(error)
    for sign, meaning in (
        ("Connection refused", "connection refused"),
        ("timed out", "no answer in time"),
        ("Max retries exceeded", "no connection"),
    ):
        if sign in text:
            return meaning
    return without_password(text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def without_password(text: str) -> str:
    """A store's address, or a line that may hold one, as it may be shown; what cannot be an address stays."""
    text = re.sub(r"((?:://|^(?!\S*://))[^:/?#@\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"(password=)[^&\s]*", r"\1***", text)


def database_file(uri: str) -> Path | None:
    """The file of a SQLite store."""
    name = make_url(uri).database if uri.startswith("sqlite:") else None
    return None if not name or name == ":memory:" else Path(name).absolute()


def _is_lost(error: BaseException) -> bool:
    if not isinstance(error, MlflowException):
        return isinstance(error, requests.RequestException)
    return (
        error.error_code in ("TEMPORARILY_UNAVAILABLE", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED")
        or isinstance(error.__cause__, requests.RequestException | SQLAlchemyError | OSError)
        or first_line(error).startswith("API request to")
    )


def _full_folders() -> str:
    """Name the places of a run that have no room, as far as they are known."""
    places = {"temporary files (TMPDIR)": Path(tempfile.gettempdir()), "this folder": Path.cwd()}
    if (database := database_file(mlflow.get_tracking_uri())) is not None:
        places["the tracking store"] = database.parent
    full = []
    for name, place in places.items():
        with suppress(OSError):
            if shutil.disk_usage(place).free < 1 << 20:
                full.append(f"{place} for {name}")
    return f" in {', '.join(full)}" if full else ""
