"""Stage 1 as mmMamba's public code computes it, with torch in place of CUDA kernels.

The teacher's attention materialises its T x T weights, all layers' errors are summed before one backward pass, so that
all graphs are alive at once, and the state-space operator is a plain torch function (section 4 of arXiv 2502.13145, and
the released `mamba2.py`). The released code itself does not run on a CPU: its operator and convolution need CUDA.
"""

# Letters: B batch, T tokens, D model width, H heads, G key/value heads, P head_dim, K chunks, Q chunk size.

import copy
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lab.core.mixers.mamba2 import Mamba2
from lab.core.mixers.rotary import rotate
from lab.core.mixers.softmax import SoftmaxAttention
from lab.core.models.decoder import LanguageModel
from lab.core.ssd import ssd

# as in the released configuration
_CHUNK = 128

# from values, step sizes, decay rates, keys and queries to outputs, with heads of a group repeated
Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class RecipeAttention(SoftmaxAttention):
    """The teacher's attention, which also runs the student's mixer on its input and records the error."""

    kind: ClassVar[str] = "recipe_softmax"

    def __init__(self, attention: SoftmaxAttention, mixer: Mamba2, scan: Scan, errors: list[Tensor]) -> None:
        """An attention that shares the weights of another.

        Args:
            attention: the teacher's.
            mixer: the student's, in its default options.
            scan: the state-space operator.
            errors: receives the mean squared error of the head outputs, with its graph.
        """
        with torch.device("meta"):
            super().__init__(attention.shape, rotary=attention.rotary, qkv_bias=attention.wqkv.bias is not None)
        self.wqkv, self.wo = attention.wqkv, attention.wo
        self.mixer = mixer
        self._scan = scan
        self._errors = errors

    def head_outputs(self, u: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T P"]:
        """softmax(q k' / sqrt(P)) v, from one projection for teacher and student."""
        shape = self.shape
        with torch.no_grad():
            by_group = self.wqkv(u).view(*u.shape[:2], shape.num_kv_heads, shape.heads_per_group + 2, shape.head_dim)
            rotated = by_group[..., :-1, :]
            if self.rotary is not None:
                rotated = rotate(rotated, self.rotary.angles(0, u.shape[1], length=u.shape[1], like=u))
            q = rotated[..., :-1, :].flatten(2, 3)
            k, v = (_repeated(part[..., -1, :], shape.heads_per_group) for part in (rotated, by_group))
            theirs = _eager_attention(*(part.transpose(1, 2) for part in (q, k, v)))
        with torch.enable_grad():
            ours = self._student_heads(u, by_group)
            self._errors.append(functional.mse_loss(ours.transpose(1, 2), theirs))
        return theirs

    def _student_heads(
        self, u: Float[Tensor, "B T D"], by_group: Float[Tensor, "B T G R P"]
    ) -> Float[Tensor, "B T H P"]:
        mixer, num_tokens = self.mixer, u.shape[1]
        assert isinstance(mixer.conv1d, nn.Conv1d), "the default mixer has a convolution"
        v, k, q = (part.flatten(2) for part in (by_group[..., -1, :], by_group[..., -2, :], by_group[..., :-2, :]))
        taps = mixer.conv1d
        mixed = functional.conv1d(
            torch.cat([v, k, q], dim=-1).transpose(1, 2),
            taps.weight,
            taps.bias,
            padding=taps.kernel_size[0] - 1,
            groups=taps.groups,
        )
        vkq = functional.silu(mixed[..., :num_tokens]).transpose(1, 2)
        v, k, q = (
            part.view(*part.shape[:2], -1, self.shape.head_dim)
            for part in torch.split(vkq, [v.shape[-1], k.shape[-1], q.shape[-1]], dim=-1)
        )
        x, B = (_repeated(part, self.shape.heads_per_group) for part in (v, k))
        dt = functional.softplus(mixer.in_proj(u) + mixer.dt_bias)
        y = self._scan(x, dt, -torch.exp(mixer.A_log), B, q)
        return mixer.g_norm(y) * functional.silu(mixer.g_proj(u)).view(y.shape)


class RecipeStep:
    """One stage-1 step of a teacher and the mixers of its student."""

    def __init__(self, teacher: LanguageModel, student: LanguageModel, scan: Scan) -> None:
        self._errors: list[Tensor] = []
        memo = {id(tensor): tensor for tensor in (*teacher.parameters(), *teacher.buffers())}
        self._teacher = copy.deepcopy(teacher, memo)
        for theirs, ours in zip(self._teacher.mixer_layers(), student.mixer_layers(), strict=True):
            attention, mixer = theirs.layer.mixer, ours.layer.mixer
            assert isinstance(attention, SoftmaxAttention), "a teacher has no other"
            assert isinstance(mixer, Mamba2), "a linear student has no other"
            theirs.layer.mixer = RecipeAttention(attention, mixer, scan, self._errors)

    def __call__(self, forward: Callable[[LanguageModel], Tensor], *, factor: float) -> float:
        """The loss, `factor` times the mean over layers; its gradient is added to the mixers.

        Args:
            forward: runs a model on a batch.
            factor: of the loss.
        """
        with torch.no_grad():
            forward(self._teacher)
        loss = factor * torch.stack(self._errors).mean()
        self._errors.clear()
        torch.autograd.backward(loss)
        return float(loss.detach())


def step_by_step(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The recurrence, token by token: the reference that kernels are tested against."""
    return ssd(x, dt, A, B, C, backend="reference").y


def in_chunks(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B T H P"],
    C: Float[Tensor, "B T H P"],
) -> Float[Tensor, "B T H P"]:
    """Listing 1 of Dao and Gu (arXiv 2405.21060): products inside chunks and between them, all chunks at once."""
    num_tokens = x.shape[1]

    def cut(part: Tensor) -> Tensor:
        """B K Q ...; padding tokens have step size zero, which changes nothing."""
        num_missing = -num_tokens % _CHUNK
        if num_missing:
            part = torch.cat([part, part.new_zeros(part.shape[0], num_missing, *part.shape[2:])], dim=1)
        return part.reshape(part.shape[0], -1, _CHUNK, *part.shape[2:])

    values, write, read = cut(x * dt[..., None]), cut(B), cut(C)
    log_decay = cut(A * dt).permute(0, 3, 1, 2)
    total = log_decay.cumsum(dim=-1)
    inside = torch.einsum("bkqhn,bkshn,bhkqs,bkshp->bkqhp", read, write, torch.exp(_segment_sums(log_decay)), values)
    added = torch.einsum("bkqhn,bhkq,bkqhp->bkhpn", write, torch.exp(total[..., -1:] - total), values)
    between = torch.exp(_segment_sums(functional.pad(total[..., :-1, -1], (1, 0))))
    states = torch.einsum("bhzk,bkhpn->bzhpn", between, functional.pad(added[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0)))
    before = torch.einsum("bkqhn,bkhpn,bhkq->bkqhp", read, states, torch.exp(total))
    return (inside + before).flatten(1, 2)[:, :num_tokens]


def _segment_sums(x: Tensor) -> Tensor:
    """Entry (t, s) is the sum of x over s < i <= t, and -inf above the diagonal."""
    length = x.shape[-1]
    repeated = x[..., None].expand(*x.shape, length)
    mask = torch.ones(length, length, dtype=torch.bool, device=x.device)
    sums = repeated.masked_fill(~mask.tril(-1), 0).cumsum(dim=-2)
    return sums.masked_fill(~mask.tril(), -torch.inf)


def _eager_attention(
    q: Float[Tensor, "B H T P"], k: Float[Tensor, "B H T P"], v: Float[Tensor, "B H T P"]
) -> Float[Tensor, "B H T P"]:
    num_tokens = q.shape[2]
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    mask = torch.full((num_tokens, num_tokens), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    return torch.softmax(scores + mask, dim=-1) @ v


def _repeated(part: Float[Tensor, "B T G P"], times: int) -> Float[Tensor, "B T H P"]:
    return part.repeat_interleave(times, dim=2)
