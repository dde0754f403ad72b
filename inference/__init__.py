"""The server: an OpenAI-compatible API and a chat page for a base model and its adapters.

The folder is copied to the share whole and started there with `python3 -m inference.start`, so it imports
nothing of the project but itself. Its layers, each of which imports only from those below it:

```
start           binds the port, installs missing packages, becomes the server (standard library only)
server          the process: signals, loading in the background, draining, the exit code
engine_process  the process of the engine, if it has one of its own
web             HTTP: the ASGI application, authentication, the API's routes and schemas, the chat page
engine_link     the server's connection to the engine's process
startup         an engine from its weights to the point at which it serves
observability   metrics, traces and logs
service         requests: preparation, admission, generation, answers
engines         the engine protocol, the engines that implement it, and the choice between them
models          weights: finding, checking and loading them; the hardware they run on
storage         large files of a share, read in parallel ranges to the local disk or into memory
text            tokens and text: chat templates, grammars, tool calls
settings        the environment as a value
errors          the server's errors
unpack          a release on the share, unpacked to the local disk (imports nothing of the server)
```
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
