"""Regression losses, and sums of losses over unlike components or tasks.

>>> import jax, jax.numpy as jnp
>>> y_hat, y = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[1.0, 0.0], [0.0, 4.0]])
>>> print(l2_loss(y_hat, y, reduction="sum"))
6.5
>>> print(l2_loss(y_hat, y, where=jnp.array([[True, True], [False, True]]), reduction="sum"))
2.0
>>> print(jax.grad(lambda p: l2_loss(p, y, reduction="sum"))(y_hat))
[[0. 2.]
 [3. 0.]]
"""

from jaxloss._regression.quadratic import l2_loss as l2_loss
from jaxloss._regression.quadratic import squared_error as squared_error
from jaxloss._regression.tasks import uncertainty_weighted_sum as uncertainty_weighted_sum
from jaxloss._regression.tasks import weighted_sum as weighted_sum
