"""The packages of a release: which the image lacks, their lock, how they are installed and kept on the share.

Imports the standard library only, but for `conflicts`, which runs in a process of its own.
"""
