"""Linear maps and layer normalisation, with the gradients of their vectors as the hardware likes them.

The gradient of a bias is a sum over all positions. On a TPU, a row of ones times the matrix gives the same sum, in
float32, by the matrix unit, where a reduction would cost as much as a tenth of the linear map itself. On a CPU the
product is the slower of the two, and as much as half of a step.

Axes: b batch, l length, d width; several axes of features (heads and their width) stay apart.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mergedistill_jax.products import is_narrow, product

_ROWS = 8
"""Rows of ones: the fewest that fill a register, so that the compiler keeps the product a product."""


def sum_over_positions(x: Float[Array, "..."], positions: int) -> Float[Array, "..."]:
    """Sums over the first `positions` axes, accumulated in float32."""

    def product(x: Array) -> Array:
        ones = jnp.ones((_ROWS, *x.shape[:positions]), x.dtype)
        summed = tuple(range(1, positions + 1)), tuple(range(positions))
        return jax.lax.dot_general(ones, x, (summed, ((), ())), preferred_element_type=jnp.float32)[0]

    def reduction(x: Array) -> Array:
        return jnp.sum(x, axis=tuple(range(positions)), dtype=jnp.float32)

    return jax.lax.platform_dependent(x, tpu=product, default=reduction)


@jax.custom_vjp
def add_bias(x: Float[Array, "..."], bias: Float[Array, "..."]) -> Float[Array, "..."]:
    """The sum of x and a bias that has its last axes, in the dtype of x."""
    return x + bias.astype(x.dtype)


def _add_bias_forward(x: Array, bias: Array) -> tuple[Array, Array]:
    return add_bias(x, bias), bias


def _add_bias_backward(bias: Array, gradient: Array) -> tuple[Array, Array]:
    return gradient, sum_over_positions(gradient, gradient.ndim - bias.ndim).astype(bias.dtype)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


@jax.custom_vjp
def _matrix_product(x: Array, kernel: Array) -> Array:
    """Rows x [n, i] times a kernel [i, o] of float32, in the dtype of the rows."""
    return product(x, kernel.astype(x.dtype), (1, 0)).astype(x.dtype)


def _matrix_product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _matrix_product(x, kernel), (x, kernel)


def _matrix_product_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    # Together, or what is turned for its product would be turned, and kept, before there is a gradient.
    (x, kernel), gradient = jax.lax.optimization_barrier((saved, gradient))
    of_x = product(gradient, kernel.astype(x.dtype), (1, 1)).astype(x.dtype)
    return of_x, product(x, gradient, (0, 0)).astype(kernel.dtype)


_matrix_product.defvjp(_matrix_product_forward, _matrix_product_backward)


def _product(x: Array, kernel: Array, contract: int) -> Array:
    """Contracts the last axes of x with the first of the kernel, in the dtype of x."""
    last, first = tuple(range(x.ndim - contract, x.ndim)), tuple(range(contract))

    def whole(x: Array, kernel: Array) -> Array:
        return jax.lax.dot_general(x, kernel.astype(x.dtype), ((last, first), ((), ())))

    def flat(x: Array, kernel: Array) -> Array:
        return flattened(lambda rows, matrix: jnp.dot(rows, matrix.astype(x.dtype)), x, kernel)

    def narrow(x: Array, kernel: Array) -> Array:
        return flattened(_matrix_product, x, kernel)

    def flattened(multiply: Callable[[Array, Array], Array], x: Array, kernel: Array) -> Array:
        width = math.prod(kernel.shape[:contract])
        found = multiply(x.reshape(-1, width), kernel.reshape(width, -1))
        return found.reshape(*x.shape[: x.ndim - contract], *kernel.shape[contract:])

    # A CPU's compiler makes a gradient of three axes up to three times slower than the same one of two, and a TPU's
    # compiler makes the other choice.
    on_cpu = narrow if is_narrow(x.dtype) else flat
    return jax.lax.platform_dependent(x, kernel, tpu=whole, cpu=on_cpu, default=flat)


class Dense(nn.Module):
    """A linear map over the last `contract` axes of its input, to axes of the sizes `features`.

    Attributes:
        axes: logical axes of the kernel, those of the inputs first.
        stddev: of the normal distribution that the kernel starts with; the bias starts at 0.
        dtype: of the matrix product and the result.
    """

    features: tuple[int, ...]
    axes: tuple[str | None, ...]
    stddev: float
    dtype: DTypeLike
    contract: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        contracted = x.shape[-self.contract :]
        normal = nn.with_logical_partitioning(nn.initializers.normal(self.stddev), self.axes)
        kernel: Any = self.param("kernel", normal, (*contracted, *self.features))
        x = _product(x.astype(self.dtype), kernel, self.contract)
        if not self.use_bias:
            return x
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, self.axes[self.contract :])
        bias: Any = self.param("bias", zeros, self.features)
        return add_bias(x, bias)


def dense(
    features: int | tuple[int, ...],
    axes: tuple[str | None, ...],
    stddev: float,
    name: str,
    *,
    dtype: DTypeLike,
    contract: int = 1,
    use_bias: bool = True,
) -> Dense:
    """A named Dense; one size of features may stand without its tuple."""
    sizes = (features,) if isinstance(features, int) else features
    return Dense(sizes, axes, stddev, dtype, contract, use_bias, name=name)


@jax.custom_vjp
def _normalise(x: Array, scale: Array, bias: Array | None, epsilon: Array) -> Array:
    return _normalise_forward(x, scale, bias, epsilon)[0]


def _standardised(x: Array, mean: Array, rate: Array) -> Array:
    return (x.astype(jnp.float32) - mean[..., None]) * rate[..., None]


def _normalise_forward(x: Array, scale: Array, bias: Array | None, epsilon: Array) -> tuple[Array, tuple]:
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1)
    # In two passes: the mean of squares less the square of the mean loses what it should find where the mean is large.
    rate = jax.lax.rsqrt(jnp.mean(jnp.square(wide - mean[..., None]), axis=-1) + epsilon)
    found = _standardised(x, mean, rate) * scale
    if bias is not None:
        found += bias
    return found.astype(x.dtype), (x, scale, bias, mean, rate)


def _normalise_backward(saved: tuple, gradient: Array) -> tuple:
    """With y the standardised x and g = gradient * scale: dx = rate (g - mean(g) - y mean(g y)), means over d."""
    x, scale, bias, mean, rate = saved
    y, wide = _standardised(x, mean, rate), gradient.astype(jnp.float32)
    scaled = wide * scale
    level, slope = jnp.mean(scaled, axis=-1), jnp.mean(scaled * y, axis=-1)
    of_x = (scaled - level[..., None] - y * slope[..., None]) * rate[..., None]
    # Products in the dtype of the activations, as in the gradients of all other vectors; their sums in float32.
    of_scale = sum_over_positions((wide * y).astype(x.dtype), x.ndim - 1)
    of_bias = None if bias is None else sum_over_positions(gradient, x.ndim - 1).astype(bias.dtype)
    return of_x.astype(x.dtype), of_scale.astype(scale.dtype), of_bias, jnp.zeros(())


_normalise.defvjp(_normalise_forward, _normalise_backward)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016) with statistics in float32."""

    epsilon: float
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        return _Norm(self.epsilon, self.use_bias, name="norm")(x)


class _Norm(nn.Module):
    """The parameters of a LayerNorm, under the name that checkpoints know."""

    epsilon: float
    use_bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        width = (x.shape[-1],)
        scale: Any = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones, ("norm",)), width)
        bias: Any = None
        if self.use_bias:
            bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, ("norm",)), width)
        return _normalise(x, scale, bias, jnp.float32(self.epsilon))
