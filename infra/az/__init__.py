"""The az command line: command values, the client that runs them, and what is known of Azure's resources."""
