"""Writing text with a decoder, or answering it with an encoder-decoder. decoding.py and beams.py work on ids, complete.py on text."""
