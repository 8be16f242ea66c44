"""Time filtering a corpus of images against a plain script, on the same model and the same pictures.

    python bench/filter.py [--images 192] [--rounds 3] [--threads 1] [--models 8x256,2x32] [--quick]

The plain way is a script around a model: each image is decoded, asked about at batch size 1 by transformers' `generate`
(up to five tokens), and yes or no is read from the text. This project's way is `mllm-eval filter`: it reads shards,
decodes images in threads, takes p(yes) from the logits of the first token, and writes decisions and index. `stock` is
the same with the model's own processor, as for a VLM of the hub. The encoder is the shipped mini-dino; the LLM is
mini-llama (`mini`) or a random one (`8x256`: layers and width). The output layer is set so that the first token is yes
or no, with yes for half of the images. Seconds are CPU time of all threads of the process, medians over the rounds; the
ways alternate. `own_same` counts images with the same decision in both ways. Writes results/bench/filter.json.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tarfile
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from harness import alone, at_threads, report

from mllm_eval.environment import before_torch

before_torch()

LONGEST = 5
TEMPLATE = "llama_3_meta"
LEVEL = "light"


def model_of(name: str, folder: Path) -> Path:
    """Write a checkpoint whose answers begin with yes or no to `folder`, and return the folder."""
    import torch

    from mllm_eval.adapters import load_encoder_model
    from mllm_eval.catalog import load_encoder, load_llm, load_recipe
    from mllm_eval.filtering.spellings import find_spellings
    from mllm_eval.model import assemble, load_llm_model, load_tokenizer, save_checkpoint

    torch.manual_seed(0)
    recipe, encoder = load_recipe("mini"), load_encoder("mini-dino")
    llm = load_llm(recipe.llm)
    tokenizer = load_tokenizer(llm, recipe.template)
    loaded = load_llm_model(llm) if name == "mini" else _larger(name, llm)
    model = assemble(encoder, recipe, loaded, tokenizer)
    words = find_spellings(tokenizer, loaded.config.vocab_size)
    eyes = load_encoder_model(encoder)
    save_checkpoint(model, folder, eyes)
    with torch.no_grad():
        # Both words get a large logit along the mean of the last hidden states, so that one of them is the answer. They
        # differ along the first principal component of the states, so that half of the images get yes.
        states = _states(folder)
        mean = states.mean(0) / states.mean(0).norm()
        varied = torch.linalg.svd(states - states.mean(0), full_matrices=False)[2][0]
        along = varied - (varied @ mean) * mean
        along = along * (20 / (states @ along).std())
        aside = (states @ along).median() / states.mean(0).norm() * mean
        top = model.llm.lm_head.weight.norm(dim=1).max() * 4 * mean
        model.llm.lm_head.weight[words.yes[-1]] = top + (along - aside) / 2
        model.llm.lm_head.weight[words.no[-1]] = top - (along - aside) / 2
    save_checkpoint(model, folder, eyes)
    return folder


def _states(folder: Path) -> Any:
    """The last hidden states [images, width] at the end of the prompts of some pictures."""
    import torch

    from mllm_eval.catalog.level import load_level
    from mllm_eval.filtering.models import RunJudge
    from mllm_eval.miniature.world import KINDS, draw

    judge = RunJudge.of_checkpoint(folder, TEMPLATE, load_level(LEVEL).question, 16)
    held: list[Any] = []
    judge.model.llm.lm_head.register_forward_pre_hook(
        lambda _, given: held.append(given[0].reshape(-1, given[0].shape[-1]))
    )
    prepared = [judge.prepare(draw("states", index, kind).image) for index in range(8) for kind in KINDS]
    for start in range(0, len(prepared), 16):
        judge.judge(prepared[start : start + 16])
    return torch.cat(held)


def _larger(name: str, llm: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    from mllm_eval.kernels import use_kernels

    width, depth, heads, hidden = {"8x256": (256, 8, 8, 682), "12x512": (512, 12, 8, 1365)}[name]
    config = LlamaConfig(vocab_size=llm.vocab, hidden_size=width, intermediate_size=hidden, num_hidden_layers=depth,
                         num_attention_heads=heads, max_position_embeddings=512)  # fmt: skip
    return use_kernels(LlamaForCausalLM(config))


def corpus(folder: Path, images: int) -> Path:
    """Write rendered pictures as WebDataset tars of 64, and return their folder."""
    from mllm_eval.data.shards import tar_members
    from mllm_eval.miniature.textrich import build

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mllm-eval-bench-") as made:
        tars = sorted(build(Path(made), pictures=images).glob("*.tar"))
        # Three members a picture: its png, its caption and what is true of it.
        members = (member for path in tars for member in tar_members(path))
        for number, part in enumerate(iter(lambda: list(islice(members, 3 * 64)), [])):
            with tarfile.open(folder / f"{number:05d}.tar", "w") as archive:
                for member in part:
                    info = tarfile.TarInfo(member.name)
                    info.size = len(member.data or b"")
                    archive.addfile(info, io.BytesIO(member.data or b""))
    return folder


def plain(stock: Any, place: Path, question: str) -> dict[str, bool]:
    """Ask about one image at a time. Returns key -> whether the answer's text begins with yes."""
    from mllm_eval.catalog.variant import DEFAULT
    from mllm_eval.data.samples import ImageRef
    from mllm_eval.decoding import decode
    from mllm_eval.generate.request import Request

    yes = {}
    for path in sorted(place.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".png"):
                    data = archive.extractfile(member).read()  # type: ignore[union-attr]
                    image = ImageRef(member.name, lambda data=data, name=member.name: decode(data, name))  # type: ignore[misc]
                    request = Request("filter", DEFAULT, member.name, question, (), (image,), LONGEST, "")
                    (answer,) = stock.generate([request])
                    # The random model was not trained to end, so it may repeat the word.
                    yes[member.name.removesuffix(".png")] = answer.text.lower().startswith("yes")
    return yes


def own(judge: Any, place: Path, out: Path) -> dict[str, bool]:
    """Run the filter, with the files it writes. Returns key -> whether the image is kept."""
    import pyarrow.parquet as pq

    from mllm_eval.filtering import FilterSettings, Places, Work, filter_corpus, open_corpus

    filter_corpus(Work(open_corpus(place), FilterSettings("bench", 0.5), Places(out), {}, lambda: judge))
    rows = [row for path in sorted((out / "decisions").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {row["key"]: row["decision"] == "kept" for row in rows}


def measure(threads: int, models: list[str], images: int, rounds: int) -> list[dict[str, Any]]:
    """One row per model."""
    import torch

    from mllm_eval.catalog.level import load_level
    from mllm_eval.external import ExternalModel
    from mllm_eval.filtering.models import RunJudge, StockJudge
    from mllm_eval.generate.stock import StockModel

    torch.set_num_threads(threads)
    question, rows = load_level(LEVEL).question, []
    with tempfile.TemporaryDirectory(prefix="mllm-eval-bench-") as folder:
        home = Path(folder)
        place = corpus(home / "corpus", images)
        for name in models:
            checkpoint = model_of(name, home / name)
            judge = RunJudge.of_checkpoint(checkpoint, TEMPLATE, question, 16)
            stock = StockModel(checkpoint, "float32", "cpu")
            batched = StockJudge(ExternalModel.of(str(checkpoint)), question, 16)
            taken: dict[str, list[tuple[float, float]]] = {"plain": [], "own": [], "stock": []}
            said: dict[str, dict[str, bool]] = {}
            # A warm-up: libraries are loaded and kernels are chosen at their first use.
            few = corpus(home / "few", 16)
            plain(stock, few, question)
            own(judge, few, home / f"{name}-warm")
            own(batched, few, home / f"{name}-warm-stock")
            for turn in range(rounds):
                for way in taken:
                    wall, cpu = time.perf_counter(), time.process_time()
                    if way == "plain":
                        said[way] = plain(stock, place, question)
                    else:
                        out = home / f"{name}-{way}-{turn}"
                        said[way] = own(judge if way == "own" else batched, place, out)
                    taken[way].append((time.perf_counter() - wall, time.process_time() - cpu))
            row: dict[str, Any] = {"model": name, "threads": threads, "images": images}
            for way, seconds in taken.items():
                row[f"{way}_a_cpu_second"] = images / statistics.median(cpu for _, cpu in seconds)
                row[f"{way}_a_second"] = images / statistics.median(wall for wall, _ in seconds)
            for way in ("own", "stock"):
                row[f"{way}_speedup"] = row[f"{way}_a_cpu_second"] / row["plain_a_cpu_second"]
                row[f"{way}_same"] = sum(said[way][key] == said["plain"][key] for key in said["plain"])
            row["kept"] = sum(said["own"].values())
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--models", default="mini,8x256")
    parser.add_argument("--quick", action="store_true", help="few images, to see that it runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    images, rounds, models = (24, 1, ["mini"]) if options.quick else (
        options.images, options.rounds, options.models.split(","))  # fmt: skip
    threads = options.threads
    rows = measure(int(threads), models, images, rounds) if alone() else at_threads(__file__, threads)
    report("filter", {"images": images, "rounds": rounds, "quick": options.quick}, rows, options.out)


if __name__ == "__main__":
    main()
