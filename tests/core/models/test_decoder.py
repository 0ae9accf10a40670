"""The parts of a decoder layer, and weights that are drawn."""

from collections.abc import Callable

import pytest
import torch

from lab.core.errors import ConfigError
from lab.core.mixers.norm import RmsNorm
from lab.core.mixers.rotary import RotaryConfig
from lab.core.models.config import DecoderConfig
from lab.core.models.decoder import DecoderStack, draw_weights
from lab.core.models.families import build_random
from lab.core.models.llama.config import LlamaConfig
from lab.core.models.swiglu import SwiGlu

CPU = torch.device("cpu")


def test_the_norm_is_the_root_mean_square() -> None:
    norm = RmsNorm(5, eps=1e-2).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 6.0))
    x = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = x / torch.sqrt((x * x).sum(dim=-1, keepdim=True) / 5 + 1e-2) * torch.arange(1.0, 6.0).double()
    torch.testing.assert_close(norm(x), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_statistics_of_the_norm_are_float32(dtype: torch.dtype) -> None:
    norm = RmsNorm(4096, eps=1e-5).to(dtype)
    # squares overflow float16, and their sum has more digits than bfloat16
    x = (300 + torch.arange(4096) % 7).to(dtype)[None, None]
    exact = x.double() / x.double().pow(2).mean().sqrt()
    torch.testing.assert_close(norm(x).double(), exact, rtol=torch.finfo(dtype).eps, atol=0)


def test_the_mlp_is_gated_by_silu() -> None:
    mlp = SwiGlu(3, 4).double()
    x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gate, up = x @ mlp.gate.weight.T, x @ mlp.up.weight.T
    torch.testing.assert_close(mlp(x), (gate / (1 + torch.exp(-gate)) * up) @ mlp.down.weight.T)


def test_a_layer_adds_to_the_residual_stream_twice(tiny_decoder: Callable[..., DecoderConfig]) -> None:
    (layer,) = DecoderStack(tiny_decoder(num_layers=1)).double()
    draw_weights(layer, generator=torch.Generator().manual_seed(0), std=0.3)
    x = torch.randn(1, 6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    between = x + layer.mixer.output(layer.mixer.head_outputs(layer.mixer_norm(x)))
    torch.testing.assert_close(layer(x), between + layer.mlp(layer.mlp_norm(between)), rtol=1e-13, atol=1e-13)


def test_drawn_weights_depend_on_the_generator_alone(tiny_llama: Callable[..., LlamaConfig]) -> None:
    def drawn(seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        model = build_random(tiny_llama(), device=CPU, dtype=torch.float32, generator=generator, std=0.1)
        return model.state_dict()

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert all(again[name].equal(tensor) for name, tensor in first.items())
    assert not first["llm.output.weight"].equal(other["llm.output.weight"])
    assert first["llm.norm.weight"].eq(1).all()
    assert first["llm.tokens.weight"].std().item() == pytest.approx(0.1, rel=0.05)


def test_a_tied_head_has_no_weight_of_its_own(tiny_llama: Callable[..., LlamaConfig]) -> None:
    generator = torch.Generator().manual_seed(0)
    config = tiny_llama(tie_output=True)
    model = build_random(config, device=CPU, dtype=torch.float64, generator=generator, std=0.1)
    assert "llm.output.weight" not in model.state_dict()
    hidden = torch.randn(1, 2, 32, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(model.logits(hidden), hidden @ model.get_parameter("llm.tokens.weight").T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 0}, "num_layers=0 must be 1 or more"),
        ({"head_dim": 0}, "head_dim=0 must be 1 or more"),
        ({"num_kv_heads": 3}, "num_heads=4 must be a multiple of num_kv_heads=3"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(change: dict[str, int], message: str) -> None:
    sizes = {
        "num_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "vocab_size": 50,
    }
    with pytest.raises(ConfigError, match=message):
        DecoderConfig(**(sizes | change), rms_norm_eps=1e-5, rotary=RotaryConfig(theta=1e4, max_length=8))
