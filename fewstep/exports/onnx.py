"""Onnx: a graph for ONNX Runtime and all that reads ONNX, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fewstep.exports import SHOWN, Export
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.exporting.sampler import ExportedSampler

with lazy_imports():
    import onnxruntime
    import torch

LARGEST_FILE = 2**31 - 2**20
"""Bytes of weights that a file of ONNX holds; more go into a second file, `sampler.onnx.data`."""
CALL = """\
import numpy as np
import onnxruntime

sampler = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
noise = np.random.default_rng(0).standard_normal({size}, dtype=np.float32)
inputs = {{"noise": noise}}
{given}(samples,) = sampler.run(["samples"], inputs)
"""
GIVEN = """\
{name} = {value}
inputs["{name}"] = {name}
"""


@dataclass(frozen=True)
class Onnx(Export):
    """The graph of torch.export in operators of ONNX."""

    file: ClassVar[str] = "sampler.onnx"
    title: ClassVar[str] = "ONNX Runtime"
    libraries: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    extra: ClassVar[str] = "onnx"

    def write(self, sampler: ExportedSampler, file: Path, source: Path) -> None:
        """See Export.write."""
        program = sampler.traced()
        weights = sum(tensor.nbytes for tensor in program.state_dict.values())
        aten = torch.ops.aten
        in_plain_operators = {
            aten.scaled_dot_product_attention.default: plain_attention,
            aten.searchsorted.Tensor: plain_search,
            aten.atan2.default: plain_angle,
        }
        if any(node.target in in_plain_operators for node in program.graph.nodes):
            program = program.run_decompositions(in_plain_operators)  # which traces all of it again
        torch.onnx.export(
            program,
            f=file,
            output_names=["samples"],
            dynamo=True,
            external_data=weights > LARGEST_FILE,
            verbose=False,
        )

    def read(self, file: Path, source: Path) -> Callable[[dict[str, Tensor]], Tensor]:
        """See Export.read."""
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

        def sample(inputs: dict[str, Tensor]) -> Tensor:
            arrays = {name: value.numpy() for name, value in inputs.items()}
            return torch.from_numpy(session.run(["samples"], arrays)[0])

        return sample

    def call(self, sampler: ExportedSampler) -> str:
        """See Export.call."""
        config = sampler.model.config
        size, given = (SHOWN, *config.shape), {}
        if config.classes:
            given["label"] = f"np.arange({SHOWN}) % {config.classes}"
        for name, shape in config.conditions.items():
            given[name] = f"np.zeros({(SHOWN, *shape)}, dtype=np.float32)  # yours"
        lines = [GIVEN.format(name=name, value=value) for name, value in given.items()]
        return CALL.format(file=self.file, size=size, given="".join(lines))


def plain_attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Any:
    """Attention as products and a softmax, where there is no dimension of heads: torch.onnx asks for one."""
    if query.dim() == 4:
        return NotImplemented
    math = torch.ops.aten._scaled_dot_product_attention_math.default
    return math(query, key, value, *rest, **options)[0]


def plain_search(ordered: Tensor, values: Tensor) -> Tensor:
    """How many numbers of `ordered` (n,) are below each value, (batch,): torch.onnx has no searchsorted."""
    return (ordered < values.unsqueeze(-1)).sum(-1)


def plain_angle(y: Tensor, x: Tensor) -> Any:
    """The angle of (x, y) in float32: ONNX Runtime has no Atan of float64."""
    if y.dtype != torch.float64:
        return NotImplemented
    return torch.atan2(y.float(), x.float()).double()
