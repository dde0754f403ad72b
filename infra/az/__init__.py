"""The az command line: commands as values, the client that runs them, and what is known about Azure."""
