"""Losses of hidden states times a vocabulary kernel, without the logits in memory."""

from jaxloss._linear.cross_entropy import linear_cross_entropy as linear_cross_entropy
from jaxloss._linear.cross_entropy import linear_log_probs as linear_log_probs
from jaxloss._linear.cross_entropy import linear_statistics as linear_statistics
from jaxloss._linear.distillation import linear_distillation_loss as linear_distillation_loss
from jaxloss._linear.per_token import linear_loss as linear_loss
from jaxloss._linear.sharded import sharded as sharded
