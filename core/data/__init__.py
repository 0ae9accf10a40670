"""Samples of pictures and conversations: tiles, token ids, labels, and the streams that bring them."""
