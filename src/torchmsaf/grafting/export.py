"""A grafted model as one program, for torch.export and for ONNX.

A traced pass runs a network from its start for each answer it gets (see :mod:`torchmsaf.grafting.replay`). What was run
in vain has no effect and is taken out; what was run twice, on a way around the tapped layer, is merged. So every layer
stands in the program once.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.fx import Graph, GraphModule, Node

from torchmsaf.data.whole_files import whole_file
from torchmsaf.errors import GraftError, require
from torchmsaf.grafting.values import tensors

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from torchmsaf.grafting.model import GraftedModel

TOLERANCE = 1e-4  # of an output, absolute and relative, between torch and onnxruntime
_LARGEST = 2**31 - 1  # bytes of one protobuf file


def export_program(
    model: GraftedModel,
    inputs: Mapping[str, Any],
    *,
    masks: Mapping[str, Tensor | None] | None = None,
    present: Tensor | None = None,
    dynamic_batch: bool = True,
) -> ExportedProgram:
    """The model's forward pass in evaluation mode as a program of torch's operators, each layer once.

    It is called as the model is: ``program.module()(inputs, masks=..., present=...)``, with those that it was exported
    with. Compile it rather than the model for inference: in the model's own trace some layers stand twice. A network
    whose input is None is not in the program.

    Args:
        model: in evaluation mode.
        inputs: an example, as in a forward pass. The networks in the order of the model's.
        masks: an example, as in a forward pass.
        present: an example, as in a forward pass.
        dynamic_batch: the first axis of every tensor may have another size later; 2 samples or more have to be in the
            example. A tensor of 1 sample beside tensors of more is understood to be of all samples, and stays so.

    Returns:
        The program, without gradients. It holds the model's own parameters, not copies.

    Raises:
        GraftError: a layer is in training mode, there is one sample only, or torch.export cannot follow a network.
    """
    _check_evaluating(model)
    arguments = _arguments(model, inputs, masks, present)
    shapes = _dynamic(arguments) if dynamic_batch else None
    given = arguments.pop("inputs")
    try:
        with torch.no_grad(), _quiet():
            traced = torch.export.export(model, (given,), arguments, dynamic_shapes=shapes, strict=False)
            program: ExportedProgram = traced.run_decompositions({})
    except GraftError:
        raise
    except Exception as error:
        advice = "; with dynamic_batch=False it may, for this number of samples alone" if dynamic_batch else ""
        raise GraftError(f"torch.export cannot follow this model{advice}. It says: {_short(error)}") from error
    _merge(program)
    return program


def export_onnx(
    model: GraftedModel,
    path: str | os.PathLike[str],
    inputs: Mapping[str, Any],
    *,
    masks: Mapping[str, Tensor | None] | None = None,
    present: Tensor | None = None,
    dynamic_batch: bool = True,
    check: bool = True,
) -> Path:
    """The model in evaluation mode as one ONNX file, weights inside.

    Its inputs are named after the networks: ``video``, ``text.input_ids`` for a keyword argument, ``video.0`` for a
    positional one, ``masks.video`` and ``present``; its outputs ``output``, or ``output.video`` where the head is None.

    Args:
        model: in evaluation mode.
        path: of the file to write, in a folder that exists. It is replaced when all is well, and not touched before.
        inputs: an example, as in a forward pass.
        masks: an example, as in a forward pass.
        present: an example, as in a forward pass.
        dynamic_batch: as in :func:`export_program`.
        check: run the file with onnxruntime, on the example and, with a dynamic batch, on one sample more, and compare
            with the model.

    Returns:
        The path.

    Raises:
        GraftError: as :func:`export_program`; or no such folder, more than 2 GiB of weights, an operator that ONNX has
            not, or a file that does not give what the model gives, to 1e-4.
        MissingDependencyError: without onnx, onnxscript or, to check, onnxruntime.
    """
    for package in ("onnx", "onnxscript", *(["onnxruntime"] if check else [])):
        require(package, "export")
    path = Path(path)
    if not path.parent.is_dir() or path.is_dir():
        raise GraftError(f"{path}: " + ("it is a folder" if path.is_dir() else f"there is no folder {path.parent}"))
    size = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    if size > _LARGEST:
        raise GraftError(f"the weights are {size / 2**30:.1f} GiB, and one ONNX file holds 2; use export_program")
    program = export_program(model, inputs, masks=masks, present=present, dynamic_batch=dynamic_batch)
    arguments = _arguments(model, inputs, masks, present)
    with whole_file(path) as part:
        _write(model, program, arguments, part, dynamic_batch)
        if check:
            _check(model, arguments, part)
            if dynamic_batch:
                _check(model, _one_more(arguments), part)
    return path


def _check_evaluating(model: GraftedModel) -> None:
    for name, layer in model.named_modules():
        if layer.training:
            raise GraftError(
                f"{name or 'the model'} is in training mode, and what is exported is a pass in evaluation mode; call "
                "model.eval() before"
            )


def _arguments(
    model: GraftedModel, inputs: Mapping[str, Any], masks: Mapping[str, Tensor | None] | None, present: Tensor | None
) -> dict[str, Any]:
    """What forward is called with, without what is None, in plain containers and in the order of the networks."""
    model._check(inputs, masks or {}, present)
    arguments: dict[str, Any] = {"inputs": {name: inputs[name] for name in model.networks}}
    if masks is not None:
        arguments["masks"] = {name: masks[name] for name in model.networks if name in masks}
    if present is not None:
        arguments["present"] = present
    # torch.export marks the tensors that it gets
    plain: dict[str, Any] = _each(arguments, lambda x: x.detach() if isinstance(x, Tensor) else x)
    return plain


def _each(value: Any, do: Callable[[Any], Any]) -> Any:
    """The same nested containers with something else in the place of each leaf."""
    if isinstance(value, Mapping):
        return {key: _each(part, do) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_each(part, do) for part in value)
    return do(value)


def _dynamic(arguments: Mapping[str, Any]) -> Any:
    """Which axes may change, as torch.export wants to be told: the first of every tensor with more than one sample."""
    if not any(_has_batch(tensor) for _, tensor in tensors(arguments)):
        raise GraftError(
            "the example has one sample, and a length of 1 is exported as fixed; give an example of two samples or more, "
            "or dynamic_batch=False for a program for one sample"
        )
    return _each(arguments, lambda x: {0: torch.export.Dim.DYNAMIC} if _has_batch(x) else None)


def _has_batch(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) > 1


def _one_more(arguments: Mapping[str, Any]) -> Any:
    """The same arguments with one sample more."""
    return _each(arguments, lambda x: torch.cat([x, x[:1]]) if _has_batch(x) else x)


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"


# ---- each layer once


def _merge(program: ExportedProgram) -> None:
    """Take dead code out of a functional program, and put one node in the place of several equal ones."""
    module = program.graph_module
    graph = module.graph
    for node in reversed(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:  # it holds on to dead code
            graph.erase_node(node)
    graph.eliminate_dead_code(_acts)
    _merge_constants(program)
    first: dict[object, Node] = {}
    for node in list(graph.nodes):
        key = _key(node, module)
        if key is not None and (same := first.setdefault(key, node)) is not node:
            program.graph_signature.replace_all_uses(node.name, same.name)
            node.replace_all_uses_with(same)
            graph.erase_node(node)
    graph.eliminate_dead_code(_acts)
    graph.lint()
    module.recompile()
    program.validate()


def _merge_constants(program: ExportedProgram) -> None:
    """Tensors that a network makes in its forward pass, ``torch.tensor(0.5)``, are there once for each run of it."""
    graph, signature = program.graph_module.graph, program.graph_signature
    nodes = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    kept: list[tuple[Node, Tensor]] = []
    for spec in list(signature.input_specs):
        value = program.constants.get(spec.target or "")
        if spec.kind is not InputKind.CONSTANT_TENSOR or not isinstance(value, Tensor):
            continue
        node = nodes[spec.arg.name]
        same = next((other for other, x in kept if _equal(x, value)), None)
        if same is None and node.users:
            kept.append((node, value))
            continue
        if same is not None:
            node.replace_all_uses_with(same)
        graph.erase_node(node)
        signature.input_specs.remove(spec)
        del program.constants[spec.target or ""]


def _equal(x: Tensor, y: Tensor) -> bool:
    return x.dtype == y.dtype and x.device == y.device and x.shape == y.shape and torch.equal(x, y)


def _key(node: Node, module: GraphModule) -> object:
    """Equal for nodes that give the same; None for a node that is not like any other."""
    if node.op == "get_attr" and isinstance(part := getattr(module, str(node.target), None), GraphModule):
        return _text(part.graph, part)
    if node.op != "call_function" or _is_random(node):
        return None
    return (node.target, repr(node.args), repr(node.kwargs))


def _text(graph: Graph, module: GraphModule) -> str:
    """A graph with its nodes counted instead of named."""
    count = {node: f"%{number}" for number, node in enumerate(graph.nodes)}
    lines = []
    for node in graph.nodes:
        part = getattr(module, str(node.target), None) if node.op == "get_attr" else None
        target = _text(part.graph, part) if isinstance(part, GraphModule) else node.target
        arguments = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: count[n])
        lines.append(f"{node.op} {'' if node.op == 'placeholder' else target} {arguments}")
    return "\n".join(lines)


def _acts(node: Node) -> bool:
    """Whether a node does something else than to give its result. Drawing random numbers is nothing: none are drawn."""
    if isinstance(node.target, torch._ops.OpOverload):
        schema = node.target._schema
        return bool(schema.is_mutable) or not schema.returns
    return bool(node.is_impure())


def _is_random(node: Node) -> bool:
    """Whether a second call may give something else."""
    target = node.target
    if isinstance(target, torch._ops.HigherOrderOperator):
        return False
    if not isinstance(target, torch._ops.OpOverload):
        return getattr(target, "__module__", "") not in ("_operator", "operator", "math", "torch")
    if _acts(node) or node.meta.get("unbacked_bindings"):
        return True
    if torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    names = [one.name for one in target._schema.arguments]
    said = dict(zip(names, node.args, strict=False)) | node.kwargs
    return "dropout_p" not in names or bool(said.get("dropout_p", 0))


# ---- ONNX


def _write(
    model: GraftedModel, program: ExportedProgram, arguments: Mapping[str, Any], path: Path, dynamic_batch: bool
) -> None:
    names = [_name(place) for place, _ in tensors(arguments)]
    axes = _each(arguments, lambda x: {0: "batch"} if dynamic_batch and _has_batch(x) else None)
    outputs = [_name(("output", *place)) for place, _ in tensors(_run(model, arguments))]
    try:
        with _quiet():
            torch.onnx.export(
                program,
                f=path,
                input_names=names,
                output_names=outputs,
                dynamic_shapes=axes if dynamic_batch else None,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        raise GraftError(f"torch.onnx cannot write this model. It says: {_short(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own work."""
    log = logging.getLogger("onnxscript")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _name(place: tuple[int | str, ...]) -> str:
    return ".".join(map(str, place[1:] if place[0] == "inputs" else place))


def _run(model: GraftedModel, arguments: Mapping[str, Any]) -> Any:
    with torch.no_grad():
        return model(**arguments)


def _check(model: GraftedModel, arguments: Mapping[str, Any], path: Path) -> None:
    runtime = require("onnxruntime", "export")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {_name(place): x.detach().cpu().numpy() for place, x in tensors(arguments) if isinstance(x, Tensor)}
    got = session.run(None, {one.name: given[one.name] for one in session.get_inputs()})
    for (place, y), other in zip(tensors(_run(model, arguments)), got, strict=True):
        expected, there = torch.as_tensor(y).double().cpu(), torch.from_numpy(other).double()
        if expected.shape != there.shape or not torch.allclose(there, expected, TOLERANCE, TOLERANCE, equal_nan=True):
            gap = f"{(there - expected).abs().max():.2g}" if expected.shape == there.shape else "another shape"
            raise GraftError(
                f"the ONNX file does not give what the model gives: {_name(('output', *place))}, {len(expected)} samples, "
                f"largest difference {gap}; nothing was written. check=False writes it all the same"
            )
