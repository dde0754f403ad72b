"""The resource types of Microsoft.App that are emulated, and their api-versions."""

from __future__ import annotations

VERSIONS = ("2026-01-01", "2025-07-01", "2025-01-01", "2024-03-01", "2023-05-01")
ENVIRONMENTS = "Microsoft.App/managedEnvironments"
STORAGES = f"{ENVIRONMENTS}/storages"
APPS = "Microsoft.App/containerApps"
