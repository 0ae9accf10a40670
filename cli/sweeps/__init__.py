"""Commands of several points: what they are, which are finished, and how they are handed to a launcher."""
