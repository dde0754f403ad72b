"""The resource types of Microsoft.App that are emulated, and their api-versions."""

from __future__ import annotations

from typing import Final

# The preview is the one that the templates of the AI Toolkit for VS Code name.
VERSIONS: Final = ("2026-01-01", "2025-07-01", "2025-01-01", "2024-03-01", "2023-11-02-preview", "2023-05-01")
ENVIRONMENTS: Final = "Microsoft.App/managedEnvironments"
STORAGES: Final = f"{ENVIRONMENTS}/storages"
APPS: Final = "Microsoft.App/containerApps"
JOBS: Final = "Microsoft.App/jobs"
