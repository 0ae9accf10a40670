"""Files of conversations, one format a module; `kinds` recognises a file by its content.

Each is indexed once, by byte offsets, and read sample by sample: none is ever whole in memory.
"""
