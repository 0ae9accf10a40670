"""Which stock architecture is expected to hold a student, by the names of its teacher, its mixer and what is kept."""

HOMES = {
    ("norm first", "linear"): "falcon_h1",
    ("norm first", "hybrid"): "falcon_h1",
    ("gate first", "linear"): "falcon_h1",
    ("gate first", "hybrid"): "granitemoehybrid",
}
# what stands around the language model of a teacher that reads pictures
AROUND = {"hovle": "llava", "llava": "llava", "internvl": "internvl"}


def home(teacher: str, mixer: str, kept: str) -> str | None:
    """The architecture that holds a student; None if none does."""
    if mixer == "deltanet":
        return "qwen3_next" if (teacher, kept) == ("qwen3", "hybrid") else None
    if teacher == "qwen3" and kept == "hybrid":
        return None
    if teacher == "llama, biases":
        # a granitemoehybrid has no biases in its MLP
        return "falcon_h1"
    return HOMES[mixer, kept]


def name_of(teacher: str, architecture: str) -> str:
    """The home of a student in words."""
    return f"{AROUND[teacher]} around {architecture}" if teacher in AROUND else architecture
