"""`lab generate`: answers to one prompt, to a file of requests, or in a conversation."""
