"""The first process of the container: it owns the listening socket, and starts and replaces the others.

Imports the standard library only, because it runs before anything is installed.
"""
