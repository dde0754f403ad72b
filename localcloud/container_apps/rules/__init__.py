"""What Azure rejects in environments and container apps, and what the local cloud does not emulate."""
