"""How gradients are clipped: as torch does it, and sparse ones by the rows that they have, which torch's own cannot.

A norm is that of the rows summed where a batch has one several times, so it is the dense gradient's.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from lrtune.wire.configuration import Configuration


def clip(parameters: Sequence[Tensor], chosen: Configuration) -> None:
    """Clip the gradients of parameters by norm and by value, as far as a configuration asks for it."""
    if chosen.clip_norm is None and chosen.clip_value is None:
        return
    if any(one.grad is not None and one.grad.is_sparse for one in parameters):
        parameters = [_dense(one) for one in parameters]
    if chosen.clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, chosen.clip_norm)
    if chosen.clip_value is not None:
        nn.utils.clip_grad_value_(parameters, chosen.clip_value)


def _dense(parameter: Tensor) -> Tensor:
    """The parameter, or one whose dense gradient is the rows of its sparse one, in the same memory."""
    if parameter.grad is None or not parameter.grad.is_sparse:
        return parameter
    parameter.grad = parameter.grad.coalesce()
    rows = parameter.grad.values()
    stands_in = rows.new_empty(rows.shape)
    stands_in.grad = rows
    return stands_in
