"""Lower precision for networks, where the hardware is faster in it."""

import torch


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are done by the hardware itself.

    Other processors would compute in float32 and round, which is slower than float32 alone.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))


def network_precision(device: torch.device) -> torch.autocast:
    """Context in which layers compute in bfloat16 where that is fast; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device))
