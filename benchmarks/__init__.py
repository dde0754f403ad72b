"""Measure how fast the server answers, next to the servers that it is compared with.

`load` puts load on any OpenAI-compatible address; `run` holds a contest between servers; `startup` times a
start. Nothing here is part of what is deployed, and nothing that is deployed imports it.
"""
