"""Types of the graph that ``load_model`` returns: no name, type or shape in it is None.

``onnx_ir`` allows nodes without a name, and tensors without a type or a shape. ``load_model`` refuses
them, and code that adds a node or a tensor gives it all three. These classes exist for the type
checker only. At run time a graph is made of the classes of ``onnx_ir`` that they are named after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, MutableMapping, Sequence
    from typing import overload

    import onnx_ir as ir
    from typing_extensions import override

    class OnnxValue(ir.Value):
        """A tensor; an open side of its shape is an ``ir.SymbolicDim``."""

        name: str
        type: ir.TypeProtocol
        dtype: ir.DataType
        shape: ir.Shape

        @override
        def producer(self) -> OnnxNode | None: ...
        @override
        def consumers(self) -> Sequence[OnnxNode]: ...
        # The named tuple of onnx_ir, which it does not export.
        @override
        def uses(self) -> Collection[tuple[OnnxNode, int]]: ...  # type: ignore[override]

    class OnnxConstant(OnnxValue):
        """An initializer, with its array."""

        const_value: ir.TensorProtocol

    class OnnxInputs(Sequence[OnnxValue | None]):
        """What a node reads.

        An iteration gives None for an optional input that is left out. ``inputs[0]`` is for an input
        that the operator requires, so it is not None.
        """

        @overload
        def __getitem__(self, place: int, /) -> OnnxValue: ...
        @overload
        def __getitem__(self, place: slice, /) -> OnnxInputs: ...
        def __getitem__(self, place: int | slice, /) -> OnnxValue | OnnxInputs: ...

    class OnnxNode(ir.Node):
        """An operator, and the tensors that it reads and makes."""

        name: str
        inputs: OnnxInputs
        outputs: Sequence[OnnxValue]

        @override
        def predecessors(self) -> Sequence[OnnxNode]: ...
        @override
        def successors(self) -> Sequence[OnnxNode]: ...

    class OnnxGraph(ir.Graph):
        """Nodes, each after those that it reads from."""

        # The dict of onnx_ir, which it does not export either.
        initializers: MutableMapping[str, OnnxConstant]  # type: ignore[assignment]

        @override
        def __iter__(self) -> Iterator[OnnxNode]: ...
        @override
        def __reversed__(self) -> Iterator[OnnxNode]: ...

    class OnnxModel(ir.Model):
        """A model whose graph is complete."""

        graph: OnnxGraph
