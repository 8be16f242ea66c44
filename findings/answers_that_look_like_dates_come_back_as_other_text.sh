#!/usr/bin/env bash
# `load_dataset("json")` makes datetimes of a column whose strings all look like ISO dates, though JSON has no dates; one
# string that does not leaves the column text. So the type of an answer depends on the other rows of its file. A file of
# dates alone has golds whose text is "2015-01-01 00:00:00", and no model's "2015-01-01" equals one; written by
# `to_json` they are numbers of milliseconds. With two files of one split the order decides: text before dates gives
# text, but "2015-01-01 00:00:00" where the file says "2015-01-01", without a word; dates before text cannot be loaded.
# pandas' read_json leaves the same file's column text.
# Seen with datasets 5.2.0, pyarrow 26.0.1: the lines that the last command compares with.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "datasets==5.2.0" "pyarrow==26.0.1"
cat > "$folder/load.py" <<'PY'
import json
import os
import sys

import datasets
import pandas

datasets.disable_progress_bars()
os.chdir(sys.argv[1])


def write(name, answers):
    with open(name, "w") as file:
        file.writelines(json.dumps({"question": "when?", "answer": answer}) + "\n" for answer in answers)


def load(*files):
    try:
        data = datasets.load_dataset("json", data_files=list(files), split="train")
    except datasets.exceptions.DatasetGenerationError as error:
        return print(*files, "-", type(error).__name__)
    print(*files, "-", data.features["answer"].dtype, [str(row["answer"]) for row in data])
    return data


write("dates.jsonl", ["2015-01-01", "2016-05-09"])
write("mixed.jsonl", ["2015-01-01", "never"])
write("words.jsonl", ["soon", "never"])
data = load("dates.jsonl")
load("mixed.jsonl")
load("words.jsonl", "dates.jsonl")
load("dates.jsonl", "words.jsonl")
data.to_json("again.jsonl")
print("to_json:", json.loads(open("again.jsonl").readline())["answer"])
print("pandas:", pandas.read_json("dates.jsonl", lines=True)["answer"][0])
PY
seen=$(HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/load.py" "$folder" 2>/dev/null)
printf '%s\n' "$seen"
[ "$seen" = "dates.jsonl - timestamp[s] ['2015-01-01 00:00:00', '2016-05-09 00:00:00']
mixed.jsonl - string ['2015-01-01', 'never']
words.jsonl dates.jsonl - string ['soon', 'never', '2015-01-01 00:00:00', '2016-05-09 00:00:00']
dates.jsonl words.jsonl - DatasetGenerationError
to_json: 1420070400000
pandas: 2015-01-01" ]
