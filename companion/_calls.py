"""How a model of the caller's is called: nothing of it is touched, and nothing about it is assumed.

A model may work in place, reuse its output buffer, have parameters that require gradients, be in half precision, be
bound to the n rows it was given for, or need more memory than there is. `guarded` hands out a `Guarded` model that
may be called with any number of points, each of which belongs to one of the n rows.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from companion import _validation as check
from companion._types import Model

# Bytes that one call may keep for its gradient: on a CPU few, which also suits its caches; on a GPU a share.
_CPU_BYTES, _GPU_SHARE = 2**27, 1 / 4
# Rows on which a model is tried before it is trusted.
_TRIED = 16
# The same rows again may differ by this share of what they are (atomic sums on a GPU), in other batches by this much
# (half precision). Beyond it a model is random, or its rows hang together.
_AGAIN, _ELSEWHERE = 1e-4, 0.1


class Composed(nn.Module):
    """The classifier f∘g on latents; each of the two may overwrite what it is given, and what it gave before."""

    def __init__(self, generator: Model, classifier: Model) -> None:
        super().__init__()
        self.generator, self.classifier, self.training = generator, classifier, False

    def forward(self, z: Tensor) -> Tensor:
        image = self.generator(z)
        own = _own_dtype(self.classifier) or image.dtype
        return self.classifier(image.clone() if own == image.dtype else image.to(own))


class Guarded:
    """A model, callable like itself: points come in any working precision, and outputs go out in it.

    Attributes:
        name: what error messages call it.
        dtype: what the model computes in; points are rounded to it before every call.
        rows_at_once: rows of one call with gradients, so that they fit the memory.
        bound_to: None, or the number of rows that every call must have, as for a generator with n labels bound.
        rounding: how much the difference of two logits was seen to change with the batch a row is in.
        differentiable: whether the output was seen to carry a gradient.
    """

    def __init__(self, name: str, model: Any, dtype: torch.dtype) -> None:
        self.name, self.model, self.dtype = name, model, dtype
        self.rows_at_once, self.rounding = 1 << 30, 0.0
        self.bound_to: int | None = None
        self._home: Any = None
        self.differentiable = True
        # What was made in inference mode cannot be saved for a gradient; copies of it can.
        own = [*model.named_parameters(), *model.named_buffers()] if isinstance(model, nn.Module) else []
        self._copies = {key: value.clone() for key, value in own if value.is_inference()}

    def __call__(self, points: Tensor) -> Tensor:
        """The outputs at a batch of points, differentiable where the points are."""
        own = points.clone() if points.dtype == self.dtype else points.to(self.dtype)
        out = torch.func.functional_call(self.model, self._copies, own) if self._copies else self.model(own)
        if not isinstance(out, Tensor):
            # The checks say so, in the words of a generator or of a classifier.
            return out
        return out.clone() if out.dtype == points.dtype else out.to(points.dtype)

    def of(self, points: Tensor, rows: Tensor) -> Tensor:
        """The outputs at points (k, …) of the rows `rows` (k,), without gradient."""
        with torch.no_grad():
            if self.bound_to is not None:
                return self._in_place(points, rows)
            return self._piecewise(len(points), lambda chosen: (self(points[chosen]),), (0,))[0]

    def gradients(
        self, points: Tensor, rows: Tensor, objective: Callable[[Tensor, slice], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The outputs, and the gradients (s, k, …) of s values for each of the points (k, …) of the rows `rows` (k,).

        `objective(outputs, chosen)` returns the values (s, len(outputs)) for the points in the slice `chosen`.
        """

        def part(chosen: slice) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                leaf = points[chosen].detach().clone().requires_grad_()
                out = self(leaf) if self.bound_to is None else self._in_place(leaf, rows)
                return out.detach(), self._pulled(objective(out, chosen), leaf)

        if self.bound_to is not None:
            return part(slice(None))
        outputs, gradients = self._piecewise(len(points), part, (0, 1))
        return outputs, gradients

    def _pulled(self, values: Tensor, leaf: Tensor) -> Tensor:
        found: list[Any] = []
        for number, value in enumerate(values):
            (gradient,) = torch.autograd.grad(
                value.sum(), leaf, retain_graph=number < len(values) - 1, allow_unused=True
            ) if value.grad_fn is not None else (None,)  # fmt: skip
            self.differentiable = gradient is not None
            self.require_gradient()
            found.append(gradient)
        return torch.stack(found)

    def require_gradient(self) -> None:
        """Refuse a model through which no gradient flows, as far as one has been asked for."""
        if not self.differentiable:
            raise ValueError(
                f"{self.name} must be differentiable in its input, but its output carries no gradient of it "
                "(does it detach, round or run under torch.no_grad?)"
            )

    def mapped(self, function: Callable[[Tensor], Tensor], points: Tensor, rows: Tensor, at_once: int) -> Tensor:
        """`function` of batches of points, such as Jacobians of this model, for points (k, …) of the rows `rows`."""
        if self.bound_to is not None:
            return self._in_place(points, rows, function)
        before, self.rows_at_once = self.rows_at_once, max(1, at_once)
        try:
            return self._piecewise(len(points), lambda chosen: (function(points[chosen]),), (0,))[0]
        finally:
            self.rows_at_once = before

    def _in_place(self, points: Tensor, rows: Tensor, function: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Outputs of a model that takes `bound_to` rows: each point in its own row, in as many calls as that needs."""
        order = torch.argsort(rows, stable=True)
        sorted_rows = rows[order].contiguous()
        # The how-manieth point of its row each one is.
        turn = torch.empty_like(rows)
        turn[order] = torch.arange(len(rows), device=rows.device) - torch.searchsorted(sorted_rows, sorted_rows)
        answers, places = [], []
        for number in range(int(turn.max()) + 1):
            here = torch.nonzero(turn == number)[:, 0]
            full = self._home.to(points).index_put((rows[here],), points[here])
            answers.append((function or self)(full)[rows[here]])
            places.append(here)
        return torch.cat(answers)[torch.argsort(torch.cat(places))]

    def _piecewise(
        self, count: int, part: Callable[[slice], tuple[Tensor, ...]], dims: tuple[int, ...]
    ) -> tuple[Tensor, ...]:
        """What `part` returns for one slice after the other, put together; where memory runs out, for smaller ones."""
        found: list[tuple[Tensor, ...]] = []
        done = 0
        while done < count or not found:
            size = min(self.rows_at_once, max(1, count - done))
            try:
                found.append(part(slice(done, done + size)))
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not out_of_memory(error):
                    raise
                self.rows_at_once = size // 2
            else:
                done += size
        if len(found) == 1:
            return found[0]
        return tuple(torch.cat(column, dim) for column, dim in zip(zip(*found, strict=True), dims, strict=True))


@contextlib.contextmanager
def guarded(
    name: str, model: Model, x: Tensor, *, generates: bool = False, trusted: bool = False
) -> Iterator[tuple[Guarded, Tensor]]:
    """A `Guarded` model and `x`, a copy of the batch in the model's precision, for the time of the `with` block.

    Inside, no parameter requires a gradient, and tensors are ordinary ones even in the caller's inference mode.

    Args:
        name: what error messages call the model.
        model: any callable on batches.
        x: (n, …) a checked tensor.
        generates: whether it returns images, not logits.
        trusted: whether to leave out what takes calls of its own: whether its answers are always the same (never asked
            of `defences.eot`), and how many rows fit the memory.

    Raises:
        ValueError: if the model is in training mode, returns no such thing, is random, or lets rows hang together.
    """
    check.network(name, model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        x = x.detach().clone()
        call = Guarded(name, model, _dtype(model, x))
        x = x.to(call.dtype)
        if len(x):
            _try(call, x, check.generate if generates else check.classify)
            stack.enter_context(_frozen(call, x))
            if not trusted:
                _fit_memory(call, x)
                if not _declared_random(model):
                    _compare(call, x, generates)
        yield call, x


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Float32 arithmetic as exact as it gets for the `with` block: no TF32, no autocast. The settings come back."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if hasattr(torch.backends.cudnn, "conv"):
            for leaf in _PRECISIONS:
                stack.callback(setattr, leaf, "fp32_precision", leaf.fp32_precision)
                leaf.fp32_precision = "ieee"
        else:
            stack.callback(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.backends.cudnn.allow_tf32 = False
            torch.set_float32_matmul_precision("highest")
        yield


# Where newer versions of torch keep what older ones call allow_tf32 and the float32 matmul precision.
_PRECISIONS = [torch.backends.cuda.matmul] + [
    getattr(backend, kind)
    for backend in (torch.backends.cudnn, torch.backends.mkldnn)
    for kind in ("conv", "rnn", "matmul")
    if hasattr(backend, kind)
]


def working(x: Tensor) -> Tensor:
    """`x` in the precision that searches work in: float32 instead of half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; on a CPU torch raises a plain RuntimeError for it."""
    plain = "can't allocate memory" in str(error) or "not enough memory" in str(error)
    return plain or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def _own_dtype(model: Model) -> torch.dtype | None:
    """The precision of a network's parameters; None for plain functions."""
    if isinstance(model, Composed):
        return _own_dtype(model.generator)
    if not isinstance(model, nn.Module):
        return None
    tensors = [*model.parameters(), *model.buffers()]
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)


def _dtype(model: Model, x: Tensor) -> torch.dtype:
    """A network's own precision; for a function that of `x`, or the first that it does not refuse."""
    own = _own_dtype(model)
    if own is not None or not len(x):
        return own or x.dtype
    for kind in dict.fromkeys([x.dtype, torch.float32, torch.float64, torch.float16, torch.bfloat16]):
        for some in (x[:1], x):
            try:
                model(some.to(kind, copy=True))
                return kind
            except (RuntimeError, TypeError, ValueError) as error:
                refused = str(error).lower()
        # What is not about precision is met again by the checks that follow.
        if not any(word in refused for word in ("dtype", "scalar type", "input type", "data type")):
            break
    return x.dtype


def _try(call: Guarded, x: Tensor, expect: Callable[..., Any]) -> None:
    """Ask the model about one row; where that fails, or gives another number of rows, about all n it is bound to."""
    try:
        alone = len(call(x[:1])) == 1
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if len(x) == 1 or out_of_memory(error):
            raise
        alone = False
    if alone or len(x) == 1:
        expect(call, x[:1])
    else:
        # If it was the caller's mistake, it comes up again here.
        expect(call, x)
        call.bound_to, call._home = len(x), x


def _some(call: Guarded, x: Tensor, count: int) -> Tensor:
    return x[:count] if call.bound_to is None else x


@contextlib.contextmanager
def _frozen(call: Guarded, x: Tensor) -> Iterator[None]:
    """No gradients for what lies behind the model's output, wherever the model keeps it, for the time of the block."""
    with torch.enable_grad():
        nodes = [call(_some(call, x, 1)).grad_fn]
    leaves, seen = [], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            leaves += [node.variable] if hasattr(node, "variable") else []
            nodes += [following for following, _ in node.next_functions]
    leaves += call.model.parameters() if isinstance(call.model, nn.Module) else []
    leaves = [leaf for leaf in leaves if leaf.requires_grad and not leaf.is_inference()]
    try:
        for leaf in leaves:
            leaf.requires_grad_(False)
        yield
    finally:
        for leaf in leaves:
            leaf.requires_grad_(True)


def _fit_memory(call: Guarded, x: Tensor) -> None:
    """Measure what a row keeps for its gradient, and from that how many rows one call may have."""
    kept = []

    def note(saved: Tensor) -> Tensor:
        kept.append(saved.nbytes)
        return saved

    point = _some(call, x, 1).clone().requires_grad_()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        out = call(point)
    call.differentiable = out.requires_grad
    free = _GPU_SHARE * torch.cuda.mem_get_info(x.device)[0] if x.is_cuda else _CPU_BYTES
    call.rows_at_once = max(1, int(free * len(point) / (sum(kept) + out.nbytes + point.nbytes)))


def _declared_random(model: Model) -> bool:
    return getattr(model.classifier if isinstance(model, Composed) else model, "averages_draws", False)


def _compare(call: Guarded, x: Tensor, generates: bool, count: int = _TRIED) -> None:
    """`_refuse_random` on as many rows as there is memory for."""
    try:
        _refuse_random(call, _some(call, x, count), generates)
    except (RuntimeError, MemoryError) as error:
        if count == 1 or not out_of_memory(error):
            raise
        _compare(call, x, generates, count // 2)


def _refuse_random(call: Guarded, some: Tensor, generates: bool) -> None:
    """Refuse a model that answers the same rows otherwise when asked again, or in another batch; note its rounding."""
    with full_precision(some.device):
        first, again = (check.generate if generates else check.classify)(call, some), call(some)
        half = first if generates else call(some / 2)
        if call.bound_to is None:
            back = some.flip(0)
            halves = [call(part) for part in back.split((len(some) + 1) // 2)]
            pairs = [(first, torch.cat(halves).flip(0)), (first[:1], call(some[:1])), (first[-1:], call(some[-1:]))]
        else:
            # Every second row stays, the others move to their neighbours' points.
            other = some.clone()
            other[1::2] = some[0::2][: len(other[1::2])]
            pairs = [(first[0::2], call(other)[0::2])]
    if generates:
        size = (first - first.flatten(1).mean(1).reshape(-1, *[1] * (first.ndim - 1))).abs().amax()
        changed = [(one - two).abs().amax() for one, two in [(first, again), *pairs]]
    else:
        # Near a boundary the gap is small; what it changes with the input, is not.
        gap = _gap(first, first)
        size = torch.maximum(gap, (_gap(half, first) - gap).abs().nan_to_num()).median()
        changed = [(_gap(one, one) - _gap(two, one)).abs().amax() for one, two in [(first, again), *pairs]]
        _warn_of_probabilities(call.name, first)
    scale, *found = torch.stack([size, *changed]).double().nan_to_num().tolist()
    if found[0] > max(_AGAIN, 4 * torch.finfo(call.dtype).eps) * scale:
        raise ValueError(
            f"{call.name} must answer the same input always the same, but two calls differ: it is random. Call "
            f"{call.name}.eval(), take its noise out, or say that it is meant to be random by companion.defences.eot"
        )
    if max(found[1:]) > _ELSEWHERE * scale:
        raise ValueError(
            f"{call.name} must answer each row by itself, but a row's output changes with the other rows of its batch. "
            f"Does it normalise over the batch? Call {call.name}.eval(), with running statistics"
        )
    call.rounding = 0.0 if generates else 2 * max(found)


def _warn_of_probabilities(name: str, logits: Tensor) -> None:
    sums = logits.double().sum(1)
    if len(logits) > 1 and bool(((logits >= 0).all() & ((sums - 1).abs() < 1e-3).all()).item()):
        warnings.warn(
            f"{name} seems to return probabilities, not logits: near 0 and 1 they have hardly a gradient, "
            "and radii come out too long; attack their logarithms, lambda x: f(x).log()",
            UserWarning,
            stacklevel=6,
        )


def _gap(logits: Tensor, like: Tensor) -> Tensor:
    """The differences (n,) of those two logits that are the largest in `like`."""
    best = logits.gather(1, like.topk(2, dim=1).indices)
    return best[:, 0] - best[:, 1]
