"""Visual question answering benchmarks: their files, their prompts, and from answers to scores. No model is needed."""
