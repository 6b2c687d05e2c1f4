"""Compile every Triton kernel for GPUs that need not be there; exits with an error if one fails."""

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cryogimbal.imaging.kernels import triton_loops, triton_sweeps

FLOATS = {"grid", "rotation", "frequency", "rows", "shift", "ctf", "observed", "out"}
# Compute capability (Ampere, Hopper), and whether indices have 64 bits.
VERSIONS = ((80, False), (90, True))


def compile_kernel(kernel: Any, capability: int, constants: dict[str, object]) -> None:
    """Compile for float32, with all whole numbers as the launcher gives them."""
    types = dict.fromkeys(kernel.arg_names, "i32")
    types |= {name: "*fp32" for name in kernel.arg_names if name in FLOATS}
    types |= {"image": "*i64"} if "image" in types else {}
    types |= dict.fromkeys(constants, "constexpr")
    target = GPUTarget("cuda", capability, 32)
    source = ASTSource(kernel, types, constants)
    compiled = triton.compile(source, target=target, options={"enable_fp_fusion": True})
    assert len(compiled.asm["cubin"]) > 0


def main() -> None:
    """Every kernel in every version."""
    plain = [triton_loops.slice_rows, triton_loops.spread_rows, triton_sweeps.rotation_gradient]
    for capability, wide in VERSIONS:
        constants: dict[str, object] = {"WIDE": wide, "BLOCK": 128}
        for kernel in plain:
            compile_kernel(kernel, capability, constants)
        for kernel in (triton_sweeps.fits, triton_sweeps.sweep):
            for shifted in (False, True):
                compile_kernel(kernel, capability, constants | {"SHIFTED": shifted})


if __name__ == "__main__":
    main()
