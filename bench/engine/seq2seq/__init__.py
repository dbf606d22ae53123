"""Encoder-decoders: the encoder runs once for each distinct context, and all its options share what it found."""
