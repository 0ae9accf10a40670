"""The gated delta rule against oracles that share no code with it: others' functions, and one T x T matrix a head."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lab.core.delta_rule import gated_delta_rule

BACKENDS = ("reference", "chunked")


def draw(num_tokens: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Four heads of values that share two of queries and keys, as in Qwen3-Next."""
    generator = torch.Generator().manual_seed(num_tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "q": normalize(normal(2, num_tokens, 2, 8), dim=-1),
        "k": normalize(normal(2, num_tokens, 2, 8), dim=-1),
        "v": normal(2, num_tokens, 4, 5),
        "g": -normal(2, num_tokens, 4).exp() / 5,
        "beta": torch.sigmoid(normal(2, num_tokens, 4)),
        "initial_state": normal(2, 4, 5, 8),
    }


@pytest.mark.parametrize("name", ["torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule"])
@pytest.mark.parametrize("num_tokens", [1, 64, 130])
def test_it_is_what_transformers_computes(name: str, num_tokens: int) -> None:
    module = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    theirs = getattr(module, name)
    tensors = draw(num_tokens, torch.float32)
    named = {name: tensor for name, tensor in tensors.items() if name not in ("q", "k", "v", "initial_state")}
    # theirs keeps a row of the state for each key channel, and scales by itself
    y, final_state = theirs(
        tensors["q"],
        tensors["k"],
        tensors["v"],
        **named,
        initial_state=tensors["initial_state"].mT.contiguous(),
        output_final_state=True,
    )
    for backend in BACKENDS:
        found = gated_delta_rule(**tensors, scale=8**-0.5, backend=backend)
        torch.testing.assert_close(found.y, y, rtol=1e-4, atol=2e-6)
        torch.testing.assert_close(found.final_state, final_state.mT, rtol=1e-4, atol=2e-6)


def mixing_matrix(q: Tensor, k: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """[T, T]: y = M v for one head, entry (i, j) as the product of the factors of all tokens between."""
    num_tokens, key_dim = k.shape
    unit = torch.eye(key_dim, dtype=k.dtype)
    factors = [g[t].exp() * (unit - beta[t] * torch.outer(k[t], k[t])) for t in range(num_tokens)]
    matrix = torch.zeros(num_tokens, num_tokens, dtype=k.dtype)
    for j in range(num_tokens):
        row = beta[j] * k[j]
        for i in range(j, num_tokens):
            if i > j:
                row = row @ factors[i]
            matrix[i, j] = row @ q[i]
    return matrix


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_multiplies_the_values_by_a_matrix_of_products(backend: str) -> None:
    tensors = draw(40, torch.float64)
    del tensors["initial_state"]
    found = gated_delta_rule(**tensors, chunk_size=16, backend=backend).y
    for row in range(2):
        for head in range(4):
            q, k = (tensors[name][row, :, head // 2] for name in ("q", "k"))
            matrix = mixing_matrix(q, k, tensors["g"][row, :, head], tensors["beta"][row, :, head])
            expected = matrix @ tensors["v"][row, :, head]
            torch.testing.assert_close(found[row, :, head], expected, rtol=0, atol=1e-13)
