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

from jaxloss._regression.absolute import absolute_error as absolute_error
from jaxloss._regression.absolute import epsilon_insensitive_loss as epsilon_insensitive_loss
from jaxloss._regression.absolute import huber_loss as huber_loss
from jaxloss._regression.absolute import smooth_l1_loss as smooth_l1_loss
from jaxloss._regression.asymmetric import expectile_loss as expectile_loss
from jaxloss._regression.asymmetric import quantile_loss as quantile_loss
from jaxloss._regression.cosine import cosine_distance as cosine_distance
from jaxloss._regression.cosine import cosine_similarity as cosine_similarity
from jaxloss._regression.counts import gamma_nll as gamma_nll
from jaxloss._regression.counts import negative_binomial_nll as negative_binomial_nll
from jaxloss._regression.counts import poisson_nll as poisson_nll
from jaxloss._regression.counts import tweedie_deviance as tweedie_deviance
from jaxloss._regression.likelihood import gaussian_crps as gaussian_crps
from jaxloss._regression.likelihood import gaussian_nll as gaussian_nll
from jaxloss._regression.likelihood import laplace_nll as laplace_nll
from jaxloss._regression.likelihood import student_t_nll as student_t_nll
from jaxloss._regression.quadratic import l2_loss as l2_loss
from jaxloss._regression.quadratic import squared_error as squared_error
from jaxloss._regression.relative import absolute_percentage_error as absolute_percentage_error
from jaxloss._regression.relative import squared_log_error as squared_log_error
from jaxloss._regression.smooth import log_cosh as log_cosh
from jaxloss._regression.smooth import pseudo_huber_loss as pseudo_huber_loss
from jaxloss._regression.smooth import robust_loss as robust_loss
from jaxloss._regression.tasks import uncertainty_weighted_sum as uncertainty_weighted_sum
from jaxloss._regression.tasks import weighted_sum as weighted_sum
