"""jaxloss: loss functions for JAX whose gradients were designed, not just derived."""

from jaxloss._core.autodiff import custom_vjp as custom_vjp
from jaxloss._regression import l2_loss as l2_loss
from jaxloss._regression import squared_error as squared_error

__version__ = "0.1.0"
