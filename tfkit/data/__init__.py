"""The data path from text to batches: sources of rows, a cache of their token ids, and batches of rows in an order drawn from a seed.

This package imports neither torch nor tfkit.model. It imports `datasets` and `pyarrow` only when a source needs them.
"""

from tfkit.data.columns.rows import Row as Row
from tfkit.data.columns.rows import Source as Source
from tfkit.data.order.example_rows import ExampleBatch as ExampleBatch
from tfkit.data.order.example_rows import ExampleRows as ExampleRows
from tfkit.data.order.framed import Frame as Frame
from tfkit.data.order.framed import FramedBatch as FramedBatch
from tfkit.data.order.framed import FramedRows as FramedRows
from tfkit.data.order.loader import BatchSizes as BatchSizes
from tfkit.data.order.loader import Loader as Loader
from tfkit.data.order.loader import Rows as Rows
from tfkit.data.order.loader import StepLoader as StepLoader
from tfkit.data.order.packing import PackedBatch as PackedBatch
from tfkit.data.order.packing import PackedRows as PackedRows
from tfkit.data.order.sentence_pairs import SentencePairRows as SentencePairRows
from tfkit.data.order.spans import SpanBatch as SpanBatch
from tfkit.data.order.spans import SpanRows as SpanRows
from tfkit.data.sources.open_sources import open_source as open_source
from tfkit.data.store.example_sets import Encoded as Encoded
from tfkit.data.store.example_sets import Encoder as Encoder
from tfkit.data.store.example_sets import Example as Example
from tfkit.data.store.example_sets import ExampleSet as ExampleSet
from tfkit.data.store.example_sets import example_set as example_set
from tfkit.data.store.folder_cache import cache_folder as cache_folder
from tfkit.data.store.folder_cache import cache_size as cache_size
from tfkit.data.store.hashes import digest as digest
from tfkit.data.store.token_stream import TokenStream as TokenStream
from tfkit.data.store.token_stream import token_stream as token_stream
from tfkit.data.store.vocabulary import sample_texts as sample_texts
from tfkit.data.store.vocabulary import trained_tokenizer as trained_tokenizer
