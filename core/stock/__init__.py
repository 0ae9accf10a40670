"""Stock architectures of transformers that hold a student exactly."""
