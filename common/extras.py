"""Packages that only some runs need: extras of pyproject.toml, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from common.errors import ConfigError

__all__ = ["require"]


def require(module: str, extra: str, what: str) -> ModuleType:
    """Import a module of a package that an extra installs.

    Parameters
    ----------
    module
        Its full name, for instance ``sklearn.datasets``.
    extra
        The extra of pyproject.toml that brings it.
    what
        What it is needed for, as the beginning of a sentence: ``dataset = 'digits'``.

    Raises
    ------
    ConfigError
        If it, or a package that it needs itself, is not installed: one line that says which, and how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise ConfigError(
            f'{what} needs the package {missing}, which is not installed here: pip install "deltamask[{extra}]"'
        ) from error
