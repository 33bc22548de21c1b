"""From text to batches: sources of rows, the cache, token streams, packed rows in a seeded order. No torch, and nothing of the model.

`datasets` and `pyarrow` are imported only when a source needs them.
"""

from tfkit.data.batch_sizes import BatchSizes
from tfkit.data.cache import cache_folder, cache_size
from tfkit.data.example_rows import ExampleBatch, ExampleRows
from tfkit.data.examples import Encoded, Encoder, Example, ExampleSet, example_set
from tfkit.data.framed import Frame, FramedBatch, FramedRows
from tfkit.data.loader import Loader, Rows
from tfkit.data.packing import PackedBatch, PackedRow, PackedRows
from tfkit.data.rows import Row, Source
from tfkit.data.sentence_pairs import SentencePairRows
from tfkit.data.sources import open_source
from tfkit.data.spans import SpanBatch, SpanRows
from tfkit.data.stream import TokenStream, token_stream
from tfkit.data.vocabulary import sample_texts, trained_tokenizer

__all__ = [
    "BatchSizes",
    "Encoded",
    "Encoder",
    "Example",
    "ExampleBatch",
    "ExampleRows",
    "ExampleSet",
    "Frame",
    "FramedBatch",
    "FramedRows",
    "Loader",
    "PackedBatch",
    "PackedRow",
    "PackedRows",
    "Row",
    "Rows",
    "SentencePairRows",
    "Source",
    "SpanBatch",
    "SpanRows",
    "TokenStream",
    "cache_folder",
    "cache_size",
    "example_set",
    "open_source",
    "sample_texts",
    "token_stream",
    "trained_tokenizer",
]
