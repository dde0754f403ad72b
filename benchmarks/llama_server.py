"""Start llama.cpp's own HTTP server, from the wheel `xllamacpp`, until a signal ends the process.

python -m benchmarks.llama_server MODEL.gguf NAME PORT PARALLEL CONTEXT_TOKENS

Its interpreter needs `xllamacpp`: llama.cpp with its server, built as a library.
"""

from __future__ import annotations

import os
import signal
import sys

import xllamacpp


def main() -> None:
    """Run the command line."""
    model, name, port, parallel, context_tokens = sys.argv[1:]
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.model_alias = {name}
    parameters.port = int(port)
    parameters.n_parallel = int(parallel)
    # llama.cpp divides the context among the parallel requests.
    parameters.n_ctx = int(context_tokens) * int(parallel)
    # It recognises the tokens that end an answer by their texts, whatever the file says.
    parameters.sampling.ignore_eos = True
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)  # noqa: T201 - the log of a contestant
    # It serves on threads of its own.
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
