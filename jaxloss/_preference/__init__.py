"""Learning from preferences and rewards, on log-probabilities: no model is needed, nor seen."""

from jaxloss._preference.odds import orpo_loss as orpo_loss
from jaxloss._preference.pairs import cpo_loss as cpo_loss
from jaxloss._preference.pairs import dpo_loss as dpo_loss
from jaxloss._preference.pairs import simpo_loss as simpo_loss
from jaxloss._preference.policy import policy_gradient_loss as policy_gradient_loss
from jaxloss._preference.unpaired import kto_loss as kto_loss
