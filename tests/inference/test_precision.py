"""Lower precision is chosen by what the hardware says of itself."""

import pytest
import torch

from cryogimbal.inference.precision import has_fast_bfloat16, network_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, False),
        ({}, False),
    ],
)
def test_bfloat16_is_used_where_the_processor_has_it(
    capabilities: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_fast_bfloat16(CPU) is expected
    layer = torch.nn.Linear(8, 8)
    with network_precision(CPU):
        found = layer(torch.ones(2, 8)).dtype
    assert found == (torch.bfloat16 if expected else torch.float32)
    assert layer.weight.dtype == torch.float32


def test_a_torch_that_does_not_say_gets_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert has_fast_bfloat16(CPU) is False
