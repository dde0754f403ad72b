"""The engine in a process of its own, behind a Unix socket.

A connection begins with lines of JSON (`handshake`), and goes on with frames of MessagePack (`messages`) once
the engine has loaded its models. `host` is the engine's end, `engine` the server's. Several servers can be
connected at once; each sees its own requests only.
"""
