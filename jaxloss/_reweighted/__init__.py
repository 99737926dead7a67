"""Cross-entropies that weigh examples by how probable their label is."""

from jaxloss._reweighted.labels import generalized_cross_entropy as generalized_cross_entropy
from jaxloss._reweighted.labels import softmax_focal_loss as softmax_focal_loss
from jaxloss._reweighted.poly import poly_loss_cross_entropy as poly_loss_cross_entropy
from jaxloss._reweighted.tempered import bi_tempered_logistic_loss as bi_tempered_logistic_loss
