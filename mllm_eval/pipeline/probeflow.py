"""Probe encoders: provide missing data, keep results that exist, and measure the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mllm_eval.catalog import load_encoder
from mllm_eval.catalog.folders import names
from mllm_eval.catalog.layers import chosen_layers
from mllm_eval.catalog.probe import Protocol, load_protocol
from mllm_eval.config import short_hash
from mllm_eval.distributed.collectives import decided, meet
from mllm_eval.distributed.ranks import rank
from mllm_eval.environment import settings
from mllm_eval.errors import UserError
from mllm_eval.locks import FileLock
from mllm_eval.pipeline.reporter import Reporter, Silent
from mllm_eval.pipeline.sources import provide
from mllm_eval.results.probed import UNUSABLE, Probed, probes_home
from mllm_eval.run import RunFolder
from mllm_eval.storage import data_home, locate


class ProbeSession(RunFolder):
    """Gives the probes of one call a name and a log folder, as a launcher of several processes needs them."""

    def __init__(self, encoders: Sequence[str], probes: Sequence[str]) -> None:
        self._asked = [load_encoder(name).name for name in encoders], [one.name for one in asked_protocols(probes)]

    @property
    def hash(self) -> str:
        return short_hash(self._asked)

    @property
    def stem(self) -> str:
        return f"probe-{'-'.join(self._asked[0])}"

    @property
    def folder(self) -> Path:
        return probes_home() / f"session-{self.hash}"


def asked_protocols(probes: str | Sequence[str] | None) -> list[Protocol]:
    """Return the protocols with these names; None and `all` mean every protocol.

    Names may be joined by commas. Raises UserError, with the nearest known names, for an unknown one.
    """
    given = [probes] if isinstance(probes, str) else list(probes or ["all"])
    listed = [part.strip() for name in given for part in name.split(",") if part.strip()]
    every = [one for name in listed for one in (names("probes") if name == "all" else [name])]
    return [load_protocol(name) for name in dict.fromkeys(every)]


@settings()
def probe(
    encoders: str | Sequence[str],
    probes: str | Sequence[str] | None = None,
    layers: str | None = None,
    data: str = "mini",
    selection: str | None = None,
    reporter: Reporter | None = None,
) -> dict[Path, Probed]:
    """Measure every probe of every encoder, where no result exists yet. Return result folder -> result.

    Args:
        encoders: names, or paths to yaml files.
        probes: names of configs/probes; by default all.
        layers: `last`, `last4`, `even4`, `all` (each block separately), or block numbers separated by commas; by
            default the protocol's.
        data: the probes' data pin: `mini`, or a pin that `mllm-eval data --probe` has locked.
        selection: the split on which heads are selected, `train_holdout` or `val`; by default the protocol's.

    Raises:
        UserError: an unknown name, missing data, or data without a usable image. Finished results are kept.
    """
    from mllm_eval.probes.measuring import Measurement, measure, selected

    listener = reporter or Silent()
    chosen = [load_encoder(name) for name in ([encoders] if isinstance(encoders, str) else encoders)]
    protocols = asked_protocols(probes)
    if not chosen:
        raise UserError("say which encoder to probe: mllm-eval probe ENCODER --probe NAME")
    asked = [
        selected(one.on(data), selection if one.selection != "none" or len(protocols) == 1 else None)
        for one in protocols
    ]
    for encoder in chosen:
        for protocol in asked:
            chosen_layers(layers or protocol.layers, encoder.depth, f"encoder {encoder.name}")
    meet()
    places = {one.name: decided(lambda one=one: place_of(one, data, listener)) for one in asked}  # type: ignore[misc]
    results: dict[Path, Probed] = {}
    for encoder in chosen:
        for protocol in asked:
            job = Measurement(encoder, protocol, data, places[protocol.name], layers)
            if (known := decided(job.done)) is None:
                title = f"probe: {encoder.name}, {protocol.name}"
                with FileLock(probes_home() / f".{job.hash}.{_own_number()}.lock"), listener.step(title) as progress:
                    known = measure(job, progress)
                meet()
            results[job.folder] = known
            for line in trouble_words(known, job.folder / UNUSABLE):
                listener.say(line)
    return results


def _own_number() -> str:
    # Ranks of one call must not block each other. Rank 0's lock keeps other calls out.
    number = rank()
    return "" if number == 0 else str(number)


def trouble_words(probed: Probed, every: Path) -> list[str]:
    """Lines on the images that failed or were left out; `every` is the file that names all of them."""
    lines = []
    if probed.n_failed:
        name, why = next(iter(probed.failed.items()))
        lines.append(f"{probed.probe}: {probed.n_failed:,} of {probed.n:,} test images failed, which no number counts: "
                     f"{name}, {why}")  # fmt: skip
    if probed.n_left_out:
        name, why = next(iter(probed.left_out.items()))
        lines.append(f"{probed.probe}: {probed.n_left_out:,} training images left out: {name}, {why}")
    # Results of older versions have no such file.
    if max(probed.n_failed, probed.n_left_out) > 1 and every.is_file():
        lines.append(f"{probed.probe}: all of them, with the reasons: {every}")
    return lines


def provide_probes(
    probes: str | Sequence[str] | None,
    data: str | None = None,
    folder: Path | None = None,
    offline: bool = False,
    reporter: Reporter | None = None,
) -> None:
    """Fetch, check and lock the data of probes, or take the files from a folder.

    `data` defaults to each protocol's first pin that this project does not generate; with `folder`, to its first pin
    of source `folder`. Raises UserError for the first probe whose data can't be provided.
    """
    from mllm_eval.probes.locking import lock_data

    listener = reporter or Silent()
    for protocol in asked_protocols(probes):
        real = [name for name, one in protocol.data.items() if one.source != "local"]
        brought = [name for name in real if protocol.data[name].source == "folder"]
        pin = data or next(iter(brought if folder is not None and brought else real), "")
        if protocol.pin(pin).source == "local":
            with listener.step(f"data: {protocol.name}"):
                place_of(protocol, pin, listener)
            continue
        with listener.step(f"data: {protocol.name}") as progress:
            lock = lock_data(protocol, pin, folder, offline, progress)
        commit = f", commit {lock.commit[:12]}" if lock.commit else ""
        listener.say(
            f"{protocol.name}: {lock.train:,} training and {lock.test:,} test images, {lock.size / 1e9:,.2f} GB in "
            f"{lock.files:,} files, {lock.source}{commit}"
        )


def place_of(protocol: Protocol, data: str, reporter: Reporter) -> Path:
    """Return the folder of a protocol's data, generated first where this project can. Raises UserError if missing."""
    pin = protocol.pin(data)
    if pin.source == "local":
        folder = locate(str(pin.folder))
        if folder.is_relative_to(data_home()):
            provide([folder], reporter)
        return folder
    from mllm_eval.probes.locking import locked_place

    return locked_place(protocol, data)
