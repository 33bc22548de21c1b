"""Text generation by decoders and encoder-decoders, and mask filling. decoding.py and beams.py work on ids, complete.py on text."""
