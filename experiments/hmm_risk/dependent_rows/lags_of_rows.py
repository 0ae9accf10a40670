"""Which lag covariances belong to which rows."""

from lab.experiments.hmm_risk.dependent_rows.lags import Lags, ModeLags, StateLags
from lab.experiments.hmm_risk.dependent_rows.mode_rows import ModeTokenRows
from lab.experiments.hmm_risk.dependent_rows.token_rows import HmmTokenRows, TokenRows
from lab.experiments.hmm_risk.dependent_rows.window_lags import WindowLags
from lab.experiments.hmm_risk.dependent_rows.window_rows import WindowTokenRows


def lags_of(rows: TokenRows, width: int) -> Lags:
    """The lag covariances of the first `width` features."""
    if isinstance(rows, HmmTokenRows):
        return StateLags(rows, width)
    if isinstance(rows, ModeTokenRows):
        return ModeLags(rows, width)
    if isinstance(rows, WindowTokenRows):
        return WindowLags(rows, width)
    raise TypeError(f"no lag covariances are known for {type(rows).__name__}")
