"""Releases on the share: manifest, plan, rollout and the deploy lock."""
