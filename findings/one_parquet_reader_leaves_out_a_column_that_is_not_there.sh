#!/usr/bin/env bash
# pyarrow reads the same parquet shard in two ways that differ over a column that is not in it. `pyarrow.parquet.read_table`
# and `pyarrow.dataset` refuse the name. `ParquetFile.read` and `ParquetFile.iter_batches`, by which shards are streamed, leave
# the column out without a word; where no name fits they give all rows, with no column at all. So of shards of which
# one calls its captions `text`, a stream that asks for `caption` gives rows without captions, and the counts are right.
# Seen with pyarrow 26.0.1: the lines that the last command compares with.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "pyarrow==26.0.1"
cat > "$folder/columns.py" <<'EOF'
import sys

import pyarrow
import pyarrow.dataset
import pyarrow.parquet

assert pyarrow.__version__ == "26.0.1"
path = sys.argv[1]
pyarrow.parquet.write_table(pyarrow.table({"url": ["a.png", "b.png"], "text": ["a cat", "a dog"]}), path)
readers = {
    "read_table": lambda names: pyarrow.parquet.read_table(path, columns=names),
    "dataset": lambda names: pyarrow.dataset.dataset(path).to_table(columns=names),
    "ParquetFile.read": lambda names: pyarrow.parquet.ParquetFile(path).read(columns=names),
    "ParquetFile.iter_batches": lambda names: next(pyarrow.parquet.ParquetFile(path).iter_batches(columns=names)),
}
for name, read in readers.items():
    told = []
    for names in (["url", "caption"], ["caption"]):
        try:
            rows = read(names)
            told.append(f"{rows.num_rows} rows of {rows.schema.names}")
        except pyarrow.ArrowInvalid:
            told.append("refused")
    print(f"{name}: {', '.join(told)}")
EOF
found=$("$folder/venv/bin/python" "$folder/columns.py" "$folder/shard.parquet")
printf '%s\n' "$found"
[ "$found" = "read_table: refused, refused
dataset: refused, refused
ParquetFile.read: 2 rows of ['url'], 2 rows of []
ParquetFile.iter_batches: 2 rows of ['url'], 2 rows of []" ]
