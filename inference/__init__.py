"""Serve a base model and the adapter trained for it: what runs in the container.

The folder is copied to the share whole and started there as `python3 -m inference.start`, so it imports
nothing of the project but itself. The layers, from the wire inwards:

```
start        binds the port, sees to it that the packages are installed, becomes server (standard library)
server       the process: signals, loading in the background, draining, the exit code
wire         HTTP on a socket, with patience for slow clients but not without end
web          the ASGI application: the edge, health, version, metrics, /v1, the chat
api, chat    the two ways in: the OpenAI API and the page for people
service      what both go through: prompt, limits, queue, text, stop strings, usage
admission    the door that a request comes through: how many at once, whose turn it is
passage      a request's way, reported to who watches: metrics, tracing, logs
engine       the protocol of an engine; engine_transformers and engine_scripted follow it
loading      weights to module trees; weights finds them, hardware says how
```
"""

VERSION = "0.1.0"
