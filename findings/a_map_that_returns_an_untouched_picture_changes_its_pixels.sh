#!/usr/bin/env bash
# A JPEG in an image column of `datasets` is written anew, as JPEG with Pillow's default quality, by a `map` that only
# hands the decoded picture on beside another column (`{**row, "question": ...}`), by `Dataset.from_list(list(rows))` and by
# `Dataset.from_generator` over another dataset's rows: other bytes and other pixels, without a warning. Pillow keeps
# the name of the format on a picture that was decoded from bytes, and the column takes that as the format to write. What
# leaves the picture alone (`filter`, `select`, a `map` that returns only the text, or the very row it was given) keeps the
# bytes; `convert("RGB")`, which has no effect on an RGB picture, makes it a PNG and so keeps the pixels. A benchmark that
# was uploaded again after such a `map` has other pictures than the original.
# Seen with datasets 5.2.0, Pillow 12.3.0: 36 of 255 is the largest change of a pixel of a JPEG of quality 95, after one map.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "datasets==5.2.0" "pillow==12.3.0" "numpy>=2"
cat > "$folder/map.py" <<'PY'
import io

import datasets
import numpy as np
from PIL import Image

datasets.disable_progress_bars()
down, right = np.mgrid[0:64, 0:64]
drawn = np.stack([right * 4, down * 4, (right + down) * 2], -1).astype(np.uint8)
drawn[20:30, 10:50] = 255
drawn[24:26, 12:48:3] = 0
file = io.BytesIO()
Image.fromarray(drawn).save(file, "JPEG", quality=95)
columns = datasets.Features({"image": datasets.Image(), "question": datasets.Value("string")})
rows = {"image": [{"bytes": file.getvalue(), "path": None}], "question": ["what is it?"]}
before = datasets.Dataset.from_dict(rows, features=columns)


def pixels(data):
    return np.asarray(data[0]["image"].convert("RGB")).astype(int)


def tell(way, after):
    stored = after.cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"]
    change = np.abs(pixels(after) - pixels(before)).max()
    kind = Image.open(io.BytesIO(stored)).format
    print(f"{way}: {kind}, same bytes: {stored == file.getvalue()}, same pixels: {change == 0}")


tell("filter", before.filter(lambda row: True))
tell("map, the text alone", before.map(lambda row: {"question": row["question"] + "?"}))
tell("map, the row as it was", before.map(lambda row: row))
tell("map, picture and text", before.map(lambda row: {**row, "question": row["question"] + "?"}))
tell("from_list", datasets.Dataset.from_list(list(before)))
tell("map, converted to RGB", before.map(lambda row: {**row, "image": row["image"].convert("RGB")}))
PY
seen=$(HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/map.py" 2>/dev/null)
printf '%s\n' "$seen"
[ "$seen" = "filter: JPEG, same bytes: True, same pixels: True
map, the text alone: JPEG, same bytes: True, same pixels: True
map, the row as it was: JPEG, same bytes: True, same pixels: True
map, picture and text: JPEG, same bytes: False, same pixels: False
from_list: JPEG, same bytes: False, same pixels: False
map, converted to RGB: PNG, same bytes: False, same pixels: True" ]
