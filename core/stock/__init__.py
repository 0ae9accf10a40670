"""Stock architectures of transformers and llama.cpp that hold a student exactly."""
