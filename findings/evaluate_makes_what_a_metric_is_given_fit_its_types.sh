#!/usr/bin/env bash
# A metric of `evaluate` declares its types, and what it is given is made to fit them without a word where a check would be
# expected: 0.9 for an int32 is cut down to 0 (so probabilities handed to a metric of classes are all of class 0), in
# lists, numpy arrays and torch tensors alike, "False" and "no" for a bool are True, "0.5" for a float is parsed. A float32,
# which most metrics declare, rounds: 16777217 arrives as 16777216. Text is the exception: a number for a string is
# refused. So a score says nothing of whether its predictions were of the right kind.
# Seen with evaluate 0.4.6, datasets 5.2.0: the lines that the last command compares with.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "evaluate==0.4.6" "datasets==5.2.0" "numpy>=2"
mkdir "$folder/same"
cat > "$folder/same/same.py" <<'PY'
import datasets
import evaluate


class Same(evaluate.Metric):
    """The share of predictions that equal their reference; its configuration is the type that it declares."""

    def _info(self):
        value = datasets.Value(self.config_name)
        features = datasets.Features({"predictions": value, "references": value})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        pairs = list(zip(predictions, references))
        return {"arrived": [value.item() if hasattr(value, "item") else value for value in predictions],
                "same": sum(a == b for a, b in pairs) / len(pairs)}
PY
cat > "$folder/ask.py" <<'PY'
import sys

import evaluate
import numpy as np

for kind, predictions, references in [
    ("int32", [0.9, 1.9], [0, 1]),
    ("int32", np.array([0.9, 1.9]), [0, 1]),
    ("bool", ["False", "no"], [True, True]),
    ("float32", ["0.5", 16777217], [0.5, 16777216]),
    ("string", [1, 2], ["1", "2"]),
]:
    metric = evaluate.load(sys.argv[1], kind)
    try:
        found = metric.compute(predictions=predictions, references=references)
    except ValueError:
        found = "refused"
    print(kind, list(predictions) if kind != "int32" else [float(value) for value in predictions], "->", found)
PY
seen=$(HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/ask.py" "$folder/same" 2>/dev/null)
printf '%s\n' "$seen"
[ "$seen" = "int32 [0.9, 1.9] -> {'arrived': [0, 1], 'same': 1.0}
int32 [0.9, 1.9] -> {'arrived': [0, 1], 'same': 1.0}
bool ['False', 'no'] -> {'arrived': [True, True], 'same': 1.0}
float32 ['0.5', 16777217] -> {'arrived': [0.5, 16777216.0], 'same': 1.0}
string [1, 2] -> refused" ]
