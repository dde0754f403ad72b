"""Azure Resource Manager: resources, subscriptions, identity and long-running operations."""
