"""easy-VQA, as its package installs it, to a benchmark's parquet and a training set in Cambrian's format."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from easy_vqa import get_test_image_paths, get_test_questions, get_train_image_paths, get_train_questions

from mllm_eval.storage import data_home, write_jsonl

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
# The benchmark asks with these words, too (`suffix` in its yaml).
SUFFIX = "Answer the question using a single word or phrase."


def write_benchmark(folder: Path, images: int) -> int:
    """The questions on the first test images, as the hub would have them; returns how many they are."""
    paths = get_test_image_paths()
    asked = [row for row in zip(*get_test_questions(), strict=True) if row[2] < images]
    table = pa.table(
        {
            "question_id": [f"test-{number}" for number in range(len(asked))],
            "question": [question for question, _, _ in asked],
            "answer": [answer for _, answer, _ in asked],
            "image": pa.array(
                [{"bytes": Path(paths[i]).read_bytes(), "path": f"{i}.png"} for _, _, i in asked],
                IMAGE,
            ),
        }
    )
    path = folder / "data" / "test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=500)
    return len(asked)


def write_training(folder: Path, images: int) -> int:
    """A conversation for each question on the first training images; returns how many they are."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, path in get_train_image_paths().items():
        if number < images:
            shutil.copyfile(path, folder / "images" / f"{number}.png")
    rows = [
        {
            "id": f"train-{number}",
            "image": f"{image}.png",
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}\n{SUFFIX}"},
                {"from": "gpt", "value": answer},
            ],
        }
        for number, (question, answer, image) in enumerate(zip(*get_train_questions(), strict=True))
        if image < images
    ]
    write_jsonl(folder / "train.jsonl", rows)
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test-images", type=int, default=250, help="of 1000")
    parser.add_argument("--train-images", type=int, default=4000, help="of 4000")
    chosen = parser.parse_args()
    folder = data_home() / "easy-vqa"
    asked = write_benchmark(folder, chosen.test_images)
    learnt = write_training(folder, chosen.train_images)
    print(f"{folder}: {asked} questions to ask, {learnt} conversations to learn from")


if __name__ == "__main__":
    main()
