"""The curves of a probe: which rows each one is about, opened only when they are needed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lab.core.errors import ConfigError
from lab.core.products import current
from lab.core.runs.random_streams import Seeds
from lab.experiments.distill.data import Data
from lab.experiments.distill.data_sources import DataConfig
from lab.experiments.distill.hidden_states import layers_of
from lab.experiments.distill.opened_model import OpenedModel
from lab.experiments.distill.teacher import device_of
from lab.experiments.probe.config import Basis, ProbeConfig, Target
from lab.experiments.probe.feature_file import open_features
from lab.experiments.probe.models import NamedModel, named_models
from lab.experiments.probe.pool import Pool, make_pool, refuse_no_pairs, refuse_too_few, refuse_useless
from lab.experiments.probe.rows import Rows
from lab.experiments.probe.state_rows import state_rows
from lab.experiments.probe.states import StateRequest, States, states_of
from lab.experiments.probe.variants import DRAWN, DrawnRows, JitteredRows, ScaledRows, distinct_rows

# widths that are chosen where none are given
_NUM_WIDTHS, _FRACTIONS = 10, (0.5, 0.75, 0.9, 1.1, 1.25, 2.0)


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve of the table.

    Attributes:
        label: in tables: model, layer and variant, as far as there are several.
        model: whose states; empty for a file.
        layer: behind which; 0 for a file.
        variant: of the rows.
        open: the rows; they may be read from disk.
        states: the name of the states that they are; None for a file.
    """

    label: str
    model: str
    layer: int
    variant: str
    open: Callable[[], Rows]
    states: Callable[[], str] | None = None

    def pool(self, config: ProbeConfig) -> Pool:
        """Moments and draws of its rows.

        Raises:
            LabError: if there are too few rows, or they cannot be read.
        """
        seeds = Seeds(config.seed)
        rows = self.open()

        def pool_of(rows: Rows, basis: Basis) -> Pool:
            return make_pool(
                rows,
                basis=basis,
                num_train=max(config.num_train),
                num_draws=config.draws,
                rows_per_context=config.rows_per_context,
                label=self.label or str(config.features),
                seeds=seeds,
                with_pairs=self.variant == "clustered" and basis is Basis.as_given,
            )

        if self.variant == "distinct":
            rows = distinct_rows(rows, seeds)
        elif self.variant == "jitter":
            rows = JitteredRows(rows, config.jitter, pool_of(rows, Basis.as_given), seeds)
        elif self.variant in DRAWN:
            rows = DrawnRows(rows, self.variant, pool_of(rows, Basis.as_given), seeds)
        return pool_of(rows, config.basis)


def curves_of(config: ProbeConfig) -> list[Curve]:
    """All curves, in the order of the table; models are looked for, files opened, but no states computed.

    Raises:
        LabError: naming key or file, value and fix.
    """
    if config.features is not None:
        paths = [None if name is None else Path(name) for name in (config.targets, config.groups)]
        file = open_features(Path(config.features), *paths)
        rows: Rows = ScaledRows(file) if config.unit_rows else file
        _refuse(config, rows, config.features)
        several = len(config.variants) > 1
        return [
            Curve(variant.replace("_", " ") if several else "", "", 0, variant, lambda: rows)
            for variant in config.variants
        ]
    contexts = max(config.num_train) // config.rows_per_context
    if contexts > config.num_contexts:
        raise ConfigError(
            f"num_train={max(config.num_train)} takes rows of {contexts} contexts, num_contexts={config.num_contexts}; "
            "raise that, or rows_per_context"
        )
    models = named_models(config)
    found = []
    teacher = None
    for named in models:
        computed = _Computed(config, named, teacher)
        if config.target is Target.teacher_state and teacher is None:
            # the first of a run's models
            teacher = computed
        for layer in layers_of(config.layers, len(named.widths)):
            widths_of(config, named.widths[layer - 1])
            for variant in config.variants:
                parts = [named.label if len(models) > 1 else "", f"layer {layer}"]
                parts += [variant.replace("_", " ")] if len(config.variants) > 1 else []
                label = ", ".join(part for part in parts if part)
                rows_of = partial(computed.rows, layer)
                found.append(Curve(label, named.label, layer, variant, rows_of, computed.name))
    return found


class _Computed:
    """The states of one model, for all of its layers."""

    def __init__(self, config: ProbeConfig, named: NamedModel, teacher: "_Computed | None") -> None:
        """Nothing is computed yet.

        Args:
            config: of the probe.
            named: the model.
            teacher: whose states are the target, unless this is the teacher or the target another one.
        """
        self._config, self._named = config, named
        self._teacher = self if teacher is None and config.target is Target.teacher_state else teacher
        self._states: States | None = None

    def rows(self, layer: int) -> Rows:
        """The rows of a layer."""
        teacher = None if self._teacher is None else (self._teacher._found(), self._teacher._last)
        rows = state_rows(self._found(), layer, self._config, teacher)
        return rows if self._config.unit_rows is False else ScaledRows(rows)

    def name(self) -> str:
        """The name of the states."""
        return self._found().name

    @property
    def _last(self) -> int:
        return len(self._named.widths)

    def _found(self) -> States:
        if self._states is None:
            layers = layers_of(self._config.layers, self._last)
            if self._teacher is self:
                layers = tuple(dict.fromkeys([*layers, self._last]))
            self._states = _states(self._config, self._named, layers)
        return self._states


def refuse_unreadable(config: ProbeConfig) -> None:
    """Refuse, before anything is written, rows that cannot be read or used: all of a file, a first sample of a model.

    Raises:
        LabError: naming file or key, value and fix.
    """
    if config.features is None:
        for named in named_models(config):
            found = named.found
            data = config.data if named.data is None else named.data
            source = Data(data, found.prompt, found.architecture, found.tokenizer, seed=config.seed)
            source.refuse_broken()
            source.stream("states", batch_size=1).next_batch()
        return
    rows = curves_of(config)[0].open()
    num_train, size = max(config.num_train), config.rows_per_context
    num_features = rows.shape[1]
    # in another basis every direction has a part of all columns
    narrowest = widths_of(config, num_features)[0] if config.basis is Basis.as_given else num_features
    label = config.features
    refuse_useless(rows, num_train=num_train, rows_per_context=size, num_columns=narrowest, label=label)


def _states(config: ProbeConfig, named: NamedModel, layers: tuple[int, ...]) -> States:
    device = device_of(config.device)
    opened: OpenedModel = named.open(device)
    data: DataConfig = config.data if named.data is None else named.data
    current.settle(opened.model, [opened.model.dtype], None)
    opened.model.choose_backends()
    request = StateRequest(
        layers=layers,
        num_contexts=config.num_contexts,
        skip=config.skip,
        answers_only=config.answers_only,
        seed=config.seed,
    )
    with torch.no_grad():
        return states_of(opened, data, request, named.label)


def widths_of(config: ProbeConfig, num_features: int) -> list[int]:
    """The widths of the configuration, or those that show a curve whose threshold is at every n.

    Raises:
        ConfigError: if one is larger than the number of features.
    """
    if config.widths is not None:
        widths = sorted(config.widths)
        if widths[-1] > num_features:
            raise ConfigError(f"widths={widths[-1]}: the rows have {num_features} features; lower it")
        return widths
    spread = np.geomspace(max(1, num_features // 40), num_features, _NUM_WIDTHS)
    near = [fraction * n for n in config.num_train for fraction in _FRACTIONS]
    found = {round(width) for width in [*spread, *near]}
    return sorted(width for width in found if 1 <= width <= num_features)


def _refuse(config: ProbeConfig, rows: Rows, name: str) -> None:
    """Refuse a file with too few rows or columns before anything is written."""
    num_rows, num_features, _ = rows.shape
    widths_of(config, num_features)
    if max(config.num_train) >= num_rows:
        raise ConfigError(f"num_train={max(config.num_train)}: {name} has {num_rows} rows, of which some are held out")
    if rows.contexts is None and config.rows_per_context > 1:
        raise ConfigError(
            f"rows_per_context={config.rows_per_context}: {name} has no groups; add them, or leave it out"
        )
    for variant in config.variants:
        if variant in DRAWN and num_features >= num_rows:
            raise ConfigError(
                f"variants={variant}: {name} has {num_rows} rows of {num_features} features, too few to know the noise "
                "of its targets; give more rows than features, or leave it out"
            )
        if variant in ("distinct", "clustered") and rows.clusters is None:
            raise ConfigError(f"variants={variant}: {name} has no clusters; add an array of that name, or leave it out")
        if variant == "clustered":
            refuse_no_pairs(rows, name)
        elif variant == "distinct":
            drawn = {"num_train": max(config.num_train), "rows_per_context": config.rows_per_context}
            kept = distinct_rows(rows, Seeds(config.seed))
            refuse_too_few(kept, **drawn, label=f"variants=distinct: one row of each cluster of {name}")
