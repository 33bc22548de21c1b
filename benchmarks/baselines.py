"""The compression of the standard library's held-out files by simple compressors, in bits per byte: the bar for a small language model.

Files and split are tfkit's own (`{stdlib: true}`), and so is the rule: each file is scored on its own, every byte of it.
"""

import argparse
import json
import lzma
import math
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

XZ_9E = 9 | lzma.PRESET_EXTREME
PIECES = 4096


class WittenBell:
    """A bigram whose unseen pairs back off to the unigram, and that to the uniform, by Witten and Bell's weights (1991, method C).

    p(w | h) = (c(h, w) + t(h) p(w)) / (c(h) + t(h)) with t(h) the number of distinct successors of h, and p(w) likewise over 1/V.
    """

    def __init__(self, documents: Iterable[Sequence[int]], vocab_size: int):
        self.vocab_size = vocab_size
        rows = [np.asarray(ids, dtype=np.int64) for ids in documents]
        heads = np.concatenate([ids[:-1] for ids in rows])
        followers = np.concatenate([ids[1:] for ids in rows])  # a document's first id is given, as in tfkit evaluate
        counts = np.bincount(followers, minlength=vocab_size)
        types = np.count_nonzero(counts)
        self.unigram: NDArray[np.float64] = (counts + types / vocab_size) / (counts.sum() + types)
        self.pairs, self.pair_counts = np.unique(heads * vocab_size + followers, return_counts=True)
        self.head_counts = np.bincount(heads, minlength=vocab_size)
        self.successors = np.bincount(self.pairs // vocab_size, minlength=vocab_size)

    def probabilities(self, heads: NDArray[np.int64], followers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return p(follower | head) for each pair (N,)."""
        pairs = heads * self.vocab_size + followers
        at = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        seen = np.where(self.pairs[at] == pairs, self.pair_counts[at], 0)
        total, types = self.head_counts[heads], self.successors[heads]
        known = total > 0
        smoothed = (seen + types * self.unigram[followers]) / np.where(known, total + types, 1)
        return np.where(known, smoothed, self.unigram[followers])

    def bits(self, ids: Sequence[int]) -> float:
        """Return the cost of the ids after the first, in bits."""
        row = np.asarray(ids, dtype=np.int64)
        return float(-np.log2(self.probabilities(row[:-1], row[1:])).sum())


def xz_sizes(files: Sequence[bytes]) -> list[int]:
    """Return the bytes of each file alone under xz -9e."""
    return [len(lzma.compress(file, preset=XZ_9E)) for file in files]


def primed_xz_sizes(training: bytes, files: Sequence[bytes]) -> list[int]:
    """Return the bytes that each file adds to the training text under xz -9e.

    A compressor cannot be copied, and compressing the training text again for each file would take minutes. So it is compressed once, and
    a forked process ends the stream for each file.
    """
    compressor = lzma.LZMACompressor(preset=XZ_9E)
    for start in range(0, len(training), 2**14):  # with a larger piece it would delay most of the work, to be done in every fork
        compressor.compress(training[start : start + 2**14])
    alone = _ended(compressor, b"")
    return [_ended(compressor, file) - alone for file in files]


def _ended(compressor: lzma.LZMACompressor, last: bytes) -> int:
    """Return how many more bytes `last` and the end of the stream give; the compressor itself is unchanged."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, struct.pack("q", len(compressor.compress(last)) + len(compressor.flush())))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) or not answer:
        raise RuntimeError(f"the forked compressor ended with status {status}")
    return int(struct.unpack("q", answer)[0])


def bigram_bits(training: Sequence[str], files: Sequence[str]) -> list[float]:
    """Return the bits of each file under a Witten-Bell bigram of byte-level BPE pieces, both learned from the training text."""
    from tfkit.tokenizer import train_byte_bpe  # after the forks: it starts threads

    tokenizer = train_byte_bpe(training, PIECES, add_bos=True, progress=None)
    model = WittenBell(tokenizer.encode_texts(training), tokenizer.size)
    return [model.bits(ids) for ids in tokenizer.encode_texts(files)]


def tfkit_bits_per_byte(checkpoint: str) -> float:
    """Return the result of `tfkit evaluate` for the checkpoint, on the validation data of its own recipe."""
    command = [sys.executable, "-m", "tfkit", "evaluate", "--from", checkpoint, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"tfkit evaluate ended with {done.returncode}")
    return float(json.loads(done.stdout)["metrics"]["bits_per_byte"])


def timed(name: str, compute: Callable[[], float]) -> None:
    start = time.perf_counter()
    bits_per_byte = compute()
    print(f"| {name} | {bits_per_byte:.3f} | {time.perf_counter() - start:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="checkpoint", metavar="CKPT", help="a run or checkpoint of tfkit to score, too")
    parser.add_argument("--files", action="store_true", help="list the held-out files and their bytes, and stop")
    arguments = parser.parse_args()

    from tfkit.data.sources.open_sources import open_source
    from tfkit.recipe.schema.data_sections import SourceSection

    held_out = list(open_source(SourceSection(stdlib=True), "held_out", None).rows())
    files = [row.text.encode() for row in held_out]
    if arguments.files:
        for row, file in zip(held_out, files, strict=True):
            print(f"{len(file):9,}  {row.place}")
        return
    training = [row.text for row in open_source(SourceSection(stdlib=True), "train", None).rows()]
    joined = "".join(training).encode()
    size = sum(map(len, files))
    print(f"Python {sys.version.split()[0]}: learned from {len(training):,} files of {len(joined):,} bytes")
    print(f"held out: {len(files)} files of {size:,} bytes\n")
    print("| held-out files under | bits per byte | seconds |\n| --- | --- | --- |")
    timed("a uniform byte", lambda: math.log2(256))
    timed("xz -9e, each file alone", lambda: 8 * sum(xz_sizes(files)) / size)
    timed("xz -9e after the training text", lambda: 8 * sum(primed_xz_sizes(joined, files)) / size)
    timed(f"Witten-Bell bigram of {PIECES:,} pieces", lambda: sum(bigram_bits(training, [row.text for row in held_out])) / size)
    if arguments.checkpoint:
        timed(f"tfkit, {arguments.checkpoint}", lambda: tfkit_bits_per_byte(arguments.checkpoint))


if __name__ == "__main__":
    main()
