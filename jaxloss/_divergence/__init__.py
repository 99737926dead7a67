"""The Kullback-Leibler family: of probabilities, of logits, and of Gaussians."""

from jaxloss._divergence.bernoulli import sigmoid_kl_divergence as sigmoid_kl_divergence
from jaxloss._divergence.distances import hellinger_distance as hellinger_distance
from jaxloss._divergence.distances import renyi_divergence as renyi_divergence
from jaxloss._divergence.distances import total_variation as total_variation
from jaxloss._divergence.distances import wasserstein_1d as wasserstein_1d
from jaxloss._divergence.gaussian import gaussian_kl as gaussian_kl
from jaxloss._divergence.jensen_shannon import js_divergence as js_divergence
from jaxloss._divergence.logits import softmax_kl_divergence as softmax_kl_divergence
from jaxloss._divergence.probabilities import convex_kl_divergence as convex_kl_divergence
from jaxloss._divergence.probabilities import generalized_kl_divergence as generalized_kl_divergence
from jaxloss._divergence.probabilities import kl_divergence as kl_divergence
from jaxloss._divergence.probabilities import kl_divergence_with_log_targets as kl_divergence_with_log_targets
