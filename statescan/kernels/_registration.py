"""What every operator tells torch about its backward pass."""

from torch import Tensor


def join(forward, backward, *, differentiable: int, saved: int = 0) -> None:
    """Make one custom operator the backward pass of another, and give it its fake.

    Args:
        forward: operator that returns y, or y and `saved` tensors for the backward pass.
        backward: operator of dy, the saved tensors and forward's arguments; returns the gradients
            of those differentiable arguments that were given, in their shapes and dtypes.
        differentiable: how many of forward's arguments, the first, get a gradient.
        saved: how many tensors forward returns for the backward pass.
    """

    def given(arguments) -> list[Tensor | None]:
        return [a if isinstance(a, Tensor) else None for a in arguments]

    def setup_context(ctx, inputs, output) -> None:
        ctx.set_materialize_grads(False)  # or the saved tensors would get gradients full of zeros
        ctx.inputs = [None if isinstance(i, Tensor) else i for i in inputs]
        ctx.save_for_backward(*(output[1:] if saved else ()), *given(inputs))

    def autograd(ctx, dy, *_) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * len(ctx.inputs)
        tensors = ctx.saved_tensors
        pairs = zip(tensors[saved:], ctx.inputs, strict=True)
        inputs = [value if tensor is None else tensor for tensor, value in pairs]
        grads = iter(backward(dy, *tensors[:saved], *inputs))
        rest = len(inputs) - differentiable
        wanted = given(inputs[:differentiable]) + [None] * rest
        return tuple(None if t is None else next(grads) for t in wanted)

    def fake(dy, *arguments) -> list[Tensor]:
        inputs = given(arguments[saved : saved + differentiable])
        return [t.new_empty(t.shape) for t in inputs if t is not None]

    backward.register_fake(fake)
    forward.register_autograd(autograd, setup_context=setup_context)
