"""Optional packages: imported when first needed, with an error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType


def need(module: str, *, extra: str, what: str) -> ModuleType:
    """Import an optional module.

    Raises:
        ImportError: it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{what} needs the package {module!r}, which is not installed; run: pip install "kakusan[{extra}]"'
        ) from error
