"""Programs for accelerators stay lean: compiled where their compilers are installed."""

import importlib.util
from typing import Any

import pytest

PROGRAM = """\
HloModule update

%body (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %gather.1 = f32[4]{0} gather(%p, %p)
}

ENTRY %main (kernel: f32[3,4], scale: bf16[]) -> (f32[4,3], f32[]) {
  %kernel = f32[3,4]{1,0} parameter(0)
  %scale = bf16[] parameter(1)
  %wrapped_transpose = f32[4,3]{1,0} fusion(%kernel), kind=kInput, calls=%transpose
  %bitcast = f32[12]{0} bitcast(%wrapped_transpose)
  %all-reduce-start = f32[12]{0} all-reduce-start(%bitcast), to_apply=%add
  %all-reduce-done = f32[12]{0} all-reduce-done(%all-reduce-start)
  %copy.1 = bf16[] copy(%scale)
  %conv.2 = (f32[4]{0}, u8[0]{0}) custom-call(%bitcast, %copy.1), custom_call_target="conv"
  %part = f32[4]{0} get-tuple-element(%conv.2), index=0
  %while.3 = f32[4]{0} while(%part), condition=%less, body=%body
  ROOT %tuple = (f32[4,3]{1,0}, f32[4]{0}) tuple(%wrapped_transpose, %while.3)
}
"""


def test_instructions_are_counted() -> None:
    from compiling import texts

    assert texts.counts(PROGRAM) == {
        "kernels": 5,
        "loops": 1,
        "copies": 2,
        "FFTs, scatters, gathers": 1,
        "custom calls": 1,
        "all-reduce": "1 (4.8e-05 MB)",
    }
    # transpose, all-reduce, copy, convolution, loop
    assert texts.traffic(PROGRAM) == 96 + 96 + 4 + (16 + 48 + 2) + 32


@pytest.fixture
def measure() -> Any:
    if any(importlib.util.find_spec(each) is None for each in ("jax_cuda12_plugin", "libtpu")):
        pytest.skip("no compilers for GPUs and TPUs: pip install '.[accelerators]'")
    from compiling.__main__ import worker_of

    worker = worker_of()
    yield worker.call
    worker.close()


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "kernels"), [("seed", 110), ("default", 175)])
def test_an_update_on_a_gpu_is_lean(measure: Any, preset: str, kernels: int) -> None:
    found = measure(
        "measure_update",
        chip="h100",
        name=preset,
        size=64,
        lanes=1,
        space=1,
        precision="float32",
        width=0.25,
    )
    assert found["kernels"] <= kernels
    assert found["loops"] == found["FFTs, scatters, gathers"] == 0
    # Numbers of the optimizer's, but no kernel of the network.
    assert found["copies"] <= 10
