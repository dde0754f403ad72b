"""Benchmarks of the server and of the servers that it is compared with.

`load` puts load on any OpenAI-compatible address; `run` compares servers; `startup` times a start; `steps`
and `sampling` time parts of the engine. Nothing here is deployed, and no deployed code imports it.
"""
