"""Export a language model to a GGUF file, for llama.cpp and programs that use it.

The file is written under a temporary name. It gets its final name once its predictions agree with those of the model.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.durable import rename, sync_file, temporary_sibling
from tfkit.engine.listener import Listener
from tfkit.engine.request.inputs import Inputs
from tfkit.errors import MachineError, ModelError, QualityGateError, UsageError, argument, how_to_install, writing
from tfkit.families import GGUF_ARCHITECTURES

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType
    from torch import Tensor

    from tfkit.hub import Loaded
    from tfkit.hub.gguf_layout import GgufLayout
    from tfkit.tokenizer.gguf_vocabulary import GgufVocabulary

FAMILIES = tuple(GGUF_ARCHITECTURES)
# Each type of tensors, with the largest accepted mean KL divergence, in nats, of the file's predictions from the model's.
TYPES = {"f16": 1e-3, "q8_0": 3e-2}
_BLOCK = 32  # number of consecutive values in a row of a matrix that share a scale in q8_0
_TEXTS = (
    "The cat sat on the mat, and looked at 3 dogs: 1,024 of them!",
    "def read_lines(path):\n    with open(path) as file:\n        return [line.strip() for line in file]\n",
    "Once upon a time there was a café in Zürich, where people wrote letters in the evening.",
    "In 2017 a model was described that reads and writes with attention alone.",
)


def export_gguf(checkpoint: str, out: Path, kind: str, listener: Listener) -> dict[str, Any]:
    """Write a checkpoint to the file `out`, with matrices of the type `kind`: f16, or q8_0 (8 bits, in blocks of 32 with a scale).

    Returns llama.cpp's name of the `architecture`, the number of `tensors`, the file's size in `bytes`, and `kl`, the mean KL divergence of
    the file's predictions from the model's, in nats. Raises UsageError for an existing file or an unknown type; ModelError for a model or
    tokenizer that llama.cpp does not support or computes differently, or for weights beyond the range of the type; QualityGateError if `kl`
    is more than TYPES allows; MachineError if the package gguf is not installed, or if the file cannot be written.
    """
    if kind not in TYPES:
        raise UsageError(f"{argument('type', kind)}: there is no such type; {' and '.join(TYPES)} are known")
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out}: already exists and is never overwritten; give another {argument('gguf')}")
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise MachineError(f"{argument('gguf')}: the export {how_to_install('gguf')}") from None

    from tfkit import adapters
    from tfkit.hub.find import find_checkpoint
    from tfkit.hub.gguf_layout import gguf_layout
    from tfkit.tokenizer.gguf_vocabulary import gguf_vocabulary

    folder = find_checkpoint(checkpoint)
    Inputs(models=(folder,)).refuse_output(out, argument("gguf"))
    described = adapters.describe(folder)
    if described.codec is None:
        raise ModelError(f"{folder}: has no tokenizer, without which llama.cpp opens no model")
    try:
        layout = gguf_layout(described.config, described.family)
        vocabulary = gguf_vocabulary(described.codec, described.config.vocab_size)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from None
    loaded = adapters.load(folder)
    temporary = temporary_sibling(out)
    try:
        with writing(out, f"make room there, or give another {argument('gguf')}"):
            count = _write(temporary, loaded, layout, vocabulary, kind, listener)
            kl = _compare(temporary, loaded, layout, listener)
            if not kl <= TYPES[kind]:
                differ = f"its predictions differ by a mean KL divergence of {kl:.3g} nats; at most {TYPES[kind]:g} is allowed"
                raise QualityGateError(f"{folder}: as {kind}, {differ}")
            sync_file(temporary)
            rename(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return {"architecture": layout.architecture, "tensors": count, "bytes": out.stat().st_size, "kl": kl}


def _write(path: Path, loaded: "Loaded", layout: "GgufLayout", vocabulary: "GgufVocabulary", kind: str, listener: Listener) -> int:
    """Write the file, and return how many tensors it has."""
    import gguf

    codec, state = loaded.codec, loaded.model.state_dict()
    assert codec is not None
    writer = gguf.GGUFWriter(path, layout.architecture)
    writer.add_name(loaded.folder.resolve().name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if kind == "f16" else gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    layout.describe(writer)
    vocabulary.describe(writer, codec, loaded.eos_ids)
    count = 0
    with listener.progress("writing", sum(tensor.numel() for tensor in state.values())) as bar:
        for name, tensor in layout.tensors(state):
            count += 1
            stored_type = _type_of(name, tensor, kind)
            data = gguf.quants.quantize(tensor.contiguous().numpy(), stored_type)
            writer.add_tensor(name, data, raw_dtype=stored_type)
            bar.advance(tensor.numel())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return count


def _type_of(name: str, tensor: "Tensor", kind: str) -> "GGMLQuantizationType":
    """Return the type that llama.cpp's own converter chooses for a tensor: vectors, position embeddings and routers stay in float32."""
    import gguf

    types = gguf.GGMLQuantizationType
    if tensor.dim() < 2 or name.startswith("position_embd") or name.endswith("ffn_gate_inp.weight"):
        return types.F32
    if kind == "q8_0" and tensor.shape[-1] % _BLOCK == 0:
        return types.Q8_0
    if tensor.abs().max() > 65504:
        raise ModelError(f"{name}: has numbers beyond 65,504, the largest of f16")
    return types.F16


def _compare(path: Path, loaded: "Loaded", layout: "GgufLayout", listener: Listener) -> float:
    """Return the mean KL divergence of the file's predictions from the model's on short texts. Leaves the file's weights in `loaded`."""
    import gguf
    import torch

    assert loaded.codec is not None
    length = loaded.config.context_length
    rows = [torch.tensor([ids[:length]]) for ids in loaded.codec.encode_texts(_TEXTS)]
    try:
        stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    except (ValueError, IndexError):  # numpy raises them for a file that a full disk has cut short, which GGUFWriter does not notice
        raise OSError("the file ends before its last tensor") from None

    def read(name: str) -> torch.Tensor:
        tensor = stored[name]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return torch.from_numpy(values.copy()).reshape(*map(int, tensor.shape[::-1]))

    with torch.inference_mode(), listener.progress("comparing", 2 * len(rows)) as bar:

        def log_probs(row: torch.Tensor) -> torch.Tensor:
            bar.advance(1)
            computed: torch.Tensor = loaded.model(row).logits.float().log_softmax(-1)  # (1, tokens, vocabulary)
            return computed

        loaded.model.eval()
        expected = [log_probs(row) for row in rows]
        loaded.model.load_state_dict(layout.ours(read))
        total = 0.0
        for row, ours in zip(rows, expected, strict=True):
            total += float((ours.exp() * (ours - log_probs(row))).sum())
    mean = total / sum(row.numel() for row in rows)
    return max(mean, 0.0)  # rounding may make the mean negative; NaN stays NaN here, while max(0.0, nan) would be 0.0
