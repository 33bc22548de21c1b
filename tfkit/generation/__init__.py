"""Text generation by decoders and encoder-decoders, and filling of masks. decoding.py and beams.py work on ids, complete.py on text."""
