"""Base models and adapters, found, checked and uploaded to the share."""
