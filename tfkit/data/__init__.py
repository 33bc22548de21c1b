"""The data path from text to batches: row sources, the cache, token streams, rows in a seeded order. Imports neither torch nor the model.

`datasets` and `pyarrow` are imported only when a source needs them.
"""

from tfkit.data.columns.rows import Row, Source
from tfkit.data.order.example_rows import ExampleBatch, ExampleRows
from tfkit.data.order.framed import Frame, FramedBatch, FramedRows
from tfkit.data.order.loader import BatchSizes, Loader, Rows, StepLoader
from tfkit.data.order.packing import PackedBatch, PackedRows
from tfkit.data.order.sentence_pairs import SentencePairRows
from tfkit.data.order.spans import SpanBatch, SpanRows
from tfkit.data.sources.open_sources import open_source
from tfkit.data.store.example_sets import Encoded, Encoder, Example, ExampleSet, example_set
from tfkit.data.store.folder_cache import cache_folder, cache_size
from tfkit.data.store.token_stream import TokenStream, token_stream
from tfkit.data.store.vocabulary import sample_texts, trained_tokenizer

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
    "PackedRows",
    "Row",
    "Rows",
    "SentencePairRows",
    "Source",
    "SpanBatch",
    "SpanRows",
    "StepLoader",
    "TokenStream",
    "cache_folder",
    "cache_size",
    "example_set",
    "open_source",
    "sample_texts",
    "token_stream",
    "trained_tokenizer",
]
