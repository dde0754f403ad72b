"""The plan of a provision: what exists, what would change, what others have configured, and its execution."""
