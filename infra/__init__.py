"""The pipeline: from an adapter on disk to a live endpoint, by way of the `az` command line.

Pure values and plans inside; one module at each edge. Nothing here imports the server or the local cloud:
the first is files to copy, the second an Azure like any other.
"""
