"""The denominators of a benchmark's shares: what the machine can do at most, and what a call has to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryProduct:
    """The rate of a library's matrix product.

    Attributes:
        name: of the library.
        size: rows and columns of the square matrices.
        flops_per_s: operations per second; None if it failed or gave another result.
        note: why not.
    """

    name: str
    size: int
    flops_per_s: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachinePeak:
    """Rates of the machine, measured in the same run as everything that refers to them.

    Attributes:
        threads: on which they were measured.
        basis: what the peak is, in a few words.
        flops_per_s: operations per second by the name of the dtype; empty if they could not be measured.
        read_bytes_per_s: of reading memory beyond the caches; None if it could not be measured.
        update_bytes_per_s: of reading and writing it in place, both counted.
        streamed_bytes: size of the array for these two.
        products: libraries' products in float32 or the device's precision.
        why_not: why rates are missing, with the fix; empty if none is.
    """

    threads: int
    basis: str = "FMA peak"
    flops_per_s: Mapping[str, float] = field(default_factory=dict)
    read_bytes_per_s: float | None = None
    update_bytes_per_s: float | None = None
    streamed_bytes: int = 0
    products: Sequence[LibraryProduct] = ()
    why_not: str = ""

    @property
    def best_product(self) -> LibraryProduct | None:
        """The fastest library; None if none could be measured."""
        timed = [product for product in self.products if product.flops_per_s is not None]
        return max(timed, key=lambda product: product.flops_per_s or 0.0, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a call has to do.

    Attributes:
        dtype: name of the precision of its products.
        flops: operations as papers count them, whatever an implementation does; None if not counted.
        executed_flops: operations that this implementation's products execute; None if not known.
        read_bytes: memory that must be read at least.
        updated_bytes: memory that must be read and written at least, each byte counted twice.
    """

    dtype: str = "float32"
    flops: float | None = None
    executed_flops: float | None = None
    read_bytes: float = 0.0
    updated_bytes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Fractions of the machine's rates; None where the work is not counted or the rate is not known.

    Attributes:
        executed: operations as executed, of the peak.
        paper: operations as in the paper, of the peak.
        streaming: the time that streaming the bytes takes, of the time taken; above 1 for bytes in a cache.
    """

    executed: float | None = None
    paper: float | None = None
    streaming: float | None = None


def shares_of(work: Work | None, seconds: float, peak: MachinePeak | None) -> Shares:
    """The shares of a call that took so long."""
    if work is None or peak is None:
        return Shares()
    rate = peak.flops_per_s.get(work.dtype)

    def of_peak(flops: float | None) -> float | None:
        return None if flops is None or rate is None else flops / seconds / rate

    streaming = None
    if work.read_bytes + work.updated_bytes and peak.read_bytes_per_s and peak.update_bytes_per_s:
        least_s = work.read_bytes / peak.read_bytes_per_s + work.updated_bytes / peak.update_bytes_per_s
        streaming = least_s / seconds
    return Shares(executed=of_peak(work.executed_flops), paper=of_peak(work.flops), streaming=streaming)
