"""The Microsoft.App resource provider: apps, revisions, environments and their validation."""
