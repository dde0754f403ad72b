"""Provide the packages of a release, as its supervisor or that of the release before it asks for them.

Run as `python3 -m inference.supervisor.packages FOLDER` in the release's folder: the release's own code
decides what it needs. FOLDER has the folders of packages on this container's disk. Prints the release's, if
it needs one. stderr has log lines and, on failure, the reason as the last line.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from inference.errors import SettingsError, TakeoverError
from inference.observability.logs import set_up_logging
from inference.packages.provision import provide_packages
from inference.settings import load_settings


def main() -> None:
    """Provide the packages, and print their folder."""
    try:
        settings = load_settings(os.environ)
        set_up_logging(settings.log_format, settings.log_level)
        folder = provide_packages(settings, Path(sys.argv[1]))
    except (TakeoverError, SettingsError, OSError) as error:
        sys.exit(" ".join(str(error).split()))
    sys.stdout.write("" if folder is None else str(folder))


if __name__ == "__main__":
    main()
