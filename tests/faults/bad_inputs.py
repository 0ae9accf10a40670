"""Command lines that must be refused: each key with each kind of impossible value, and words that name nothing.

A key lists the values that it does take, or for which the whole is refused for another reason that is tested elsewhere.
"""

from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from typing import NamedTuple

# each key gets all of the first ones, and three of the others in turn
_ALWAYS = ("nan", "inf", "-1", "0", "1e300", "1000000000000")
_IN_TURN = ("-inf", "99999999999999999999999", "word", "ünï", "[]", "null", "{a:1}", "[[1]]")

# for numbers on the command line of a Typer command
NUMBERS = ("nan", "inf", "-1", "0", "1e300", "word", "ünï", "", "[]", "99999999999999999999999")


class Case(NamedTuple):
    """A command line.

    Attributes:
        words: behind `lab`.
        may_print: whether standard output may hold something: the findings of a check.
    """

    words: tuple[str, ...]
    may_print: bool = False


SMALL = ("num_train=20", "widths=[4,8]", "replicates=2", "figures=[]", "workers=1", "observation_noise=0.5")
_GAUSSIAN = (*SMALL, "hmm=orthogonal", "hmm.state_dim=4")
_DISCRETE = (*SMALL, "hmm=dirichlet", "representation=lifted_posterior", "hmm.num_states=3", "hmm.num_tokens=4")
_LABEL = (*SMALL, "hmm=orthogonal_modes", "hmm.state_dim=20", "task=downstream_label")

# base command, and for each key the values that are fine
SWEEP: Mapping[tuple[str, ...], Mapping[str, str]] = {
    SMALL: {
        "num_train": "",
        "tokens_per_sequence": "",
        "observation_noise": "0",
        "replicates": "",
        "num_test": "null",
        "rank_tolerance": "0 null",
        "ridge": "0 1000000000000",
        "seed": "0 1000000000000",
        "workers": "null",
        "snr": "null",
        "widths": "null",
        "curves": "{}",
        "sinks": "[]",
        "figures": "[]",
        "hmm": "",
        "head": "",
    },
    ("figures=[]", "workers=1"): {"gammas": ""},
    (*_GAUSSIAN, "hmm=general", "hmm.state_noise=0.5"): {"hmm.state_noise": "", "hmm.spectral_radius": "0"},
    _GAUSSIAN: {"hmm.state_dim": "", "context_length": "", "representation.num_features": "null"},
    (*_GAUSSIAN, "hmm=symmetric"): {"hmm.lowest_eigenvalue": "0"},
    (*_GAUSSIAN, "representation=context_window", "context_length=4"): {"representation.window": ""},
    (*_GAUSSIAN, "representation=kalman_state", "widths=[2]", "context_length=4"): {
        "representation.observation_dim": "",
    },
    _LABEL: {"task.num_outputs": "", "task.decay": "0"},
    _DISCRETE: {
        "hmm.num_states": "",
        "hmm.num_tokens": "",
        "hmm.transition_concentration": "",
        "hmm.emission_concentration": "",
        "population_sequences": "",
        "context_length": "",
    },
    (*_DISCRETE, "hmm=permutations"): {
        "hmm.start_temperature": "",
        "hmm.transition_temperature": "",
        "hmm.emission_temperature": "",
    },
    (*_DISCRETE, "task=downstream_label", "num_test=10", "head=logistic", "ridge=[0.1]"): {"head.max_iterations": ""},
}

_TINY = tuple(f"stage_{stage}.{key}" for stage in (1, 2, 3) for key in ("steps=1", "batch_size=2"))
_ONE = ("stage=1", "teacher.hovle=null", "teacher.path=TEACHER", *_TINY, "figures=[]", "evaluation.num_batches=1")
_RANDOM = ("stage=1", *_TINY, "teacher.path=null")
_NEW = ("stage=teacher", "teacher.path=null", "stage_teacher.steps=1")
_ARCHITECTURE = ("num_layers", "intermediate_size", "num_heads", "num_kv_heads", "head_dim", "rms_norm_eps")

DISTILL: Mapping[tuple[str, ...], Mapping[str, str]] = {
    _ONE: {
        "stage_1.steps": "",
        "stage_1.batch_size": "",
        "stage_1.accumulation": "",
        "stage_1.learning_rate": "",
        "stage_1.warmup": "0",
        "stage_1.decay": "0",
        "stage_1.weight_decay": "0",
        "stage_1.beta1": "0",
        "stage_1.beta2": "0",
        "stage_1.gradient_clip": "",
        "stage_1.log_every": "",
        "stage_1.evaluate_every": "",
        "stage_1.checkpoint_every": "",
        "stage_1.factor": "",
        "stage_3.temperature": "",
        "stage_3.cross_entropy": "0",
        "stage_3.chunk_size": "",
        "evaluation.num_batches": "",
        "evaluation.num_validation_batches": "",
        "evaluation.batch_size": "",
        "evaluation.window": "",
        "evaluation.num_sinks": "0",
        "prompt.max_tiles": "",
        "prompt.max_length": "null",
        "seed": "0 1000000000000",
        "replicates": "",
        "threads": "null",
        "student.mixer.conv_kernel": "null",
        "device": "",
        "products": "",
        "loader": "",
        "stage": "",
    },
    (*_ONE, "student=hybrid"): {"student.hybrid.number": ""},
    (*_ONE[:1], *_ONE[1:], "data=text"): {"data.text.piece_length": "", "data.text.held_out_share": ""},
    _RANDOM: {
        **{f"teacher.hovle.llm.{key}": "" for key in _ARCHITECTURE},
        "teacher.hovle.llm.rotary.theta": "1000000000000",
        "teacher.hovle.llm.rotary.max_length": "",
        "teacher.hovle.vision.image_size": "",
        "teacher.hovle.vision.patch_size": "",
        "teacher.hovle.vision.shuffle_factor": "",
    },
    _NEW: {"stage_teacher.batch_size": "", "stage_teacher.learning_rate": ""},
}

# of `lab generate`: options, and the values that are fine
GENERATE: Mapping[str, str] = {
    "--temperature": "0",
    "--top-k": "",
    "--top-p": "",
    "--max-new-tokens": "",
    "--seed": "0",
    "--max-tiles": "",
    "--threads": "",
    "--stage": "",
    "--replicate": "0",
    "--precision": "",
    "--device": "",
    "--products": "",
    "--image": "",
    "--json": "nan inf -1 0 1e300 word ünï [] 99999999999999999999999",
}

WORDS = (
    *(("show", word) for word in ("nothing", "", "ünï", "/", "/dev/null", "../..", "\x01", "a" * 5000)),
    *(("export", word, "out") for word in ("nothing", "", "ünï", "/", "/dev/null", "shipped")),
    *(("export", "nothing", word) for word in ("", "/", "/proc/x", "/dev/null/x", ".")),
    *(
        ("generate", word, "--prompt", "Same?")
        for word in ("nothing", "", "ünï", "/", "/dev/null", "no.gguf", "a" * 5000)
    ),
    *(("bench", word) for word in ("nothing", "", "ünï", "SSD")),
    *(("bench", "ssd", "--repeats", word) for word in ("0", "-1", "nan", "word", "1000000000000000")),
    *(("bench", "ssd", "--quick", "--json", word) for word in ("/", "/proc/x/y", "/dev/null/x")),
    *(("runs", "--limit", word) for word in ("0", "-1", "nan", "word", "", "1e3")),
    ("doctor", "word"),
    ("doctor", "--nothing"),
    ("version", "word"),
    ("nothing",),
    ("hmm-risk", "nothing"),
    ("hmm-risk", "--nothing"),
    ("distill", "--nothing"),
    ("distill",),
    ("show",),
    ("export",),
    ("generate",),
    ("bench",),
    *(
        ("hmm-risk", "sweep", word)
        for word in ("", "=", "a=", "+", "~", "num_train", "num_train==", "++x=1", "resume=")
    ),
    *(("distill", "stage=1", word) for word in ("", "=", "x=1", "+x=1", "stage_1.x=1", "teacher=nothing", "resume=no")),
    ("hmm-risk", "sweep", "ridge=[1,1.0]"),
    ("hmm-risk", "sweep", "widths=[8,4]"),
    ("hmm-risk", "sweep", "hydra.run.dir="),
    ("hmm-risk", "sweep", "num_train=20000", "widths=[1000000]"),
    (
        "hmm-risk",
        "sweep",
        f"num_train=[{','.join(map(str, range(1, 500)))}]",
        f"snr=[{','.join(map(str, range(1, 500)))}]",
    ),
    ("distill", "stage=2", "from_run=nothing"),
    ("distill", "stage=2", "threads=100000"),
)


def cases() -> Iterator[Case]:
    """Every command line; TEACHER stands for a folder with a checkpoint."""
    others = cycle(_IN_TURN)
    for command, table in (("hmm-risk sweep", SWEEP), ("distill", DISTILL)):
        for base, keys in table.items():
            for key, fine in keys.items():
                values = (*_ALWAYS, *islice(others, 3))
                yield from (
                    Case((*command.split(), *base, f"{key}={value}")) for value in values if value not in fine.split()
                )
    for option, fine in GENERATE.items():
        yield from (
            Case(("generate", "TEACHER", "--prompt", "How many pictures show a bag?", option, value))
            for value in NUMBERS
            if value not in fine.split()
        )
    yield from map(Case, WORDS)
