"""Which build of the product runs."""

import os
from importlib import metadata


def version() -> str:
    """Return the release, such as `0.2.0`: the installed package's, or the image's; `unknown` without either."""
    try:
        return metadata.version("popfax-groups")
    except metadata.PackageNotFoundError:
        return os.environ.get("POPFAX_VERSION") or "unknown"


def commit() -> str:
    """Return the commit that it was built from, as the image says it; `unknown` without."""
    return os.environ.get("POPFAX_COMMIT") or "unknown"
