"""Losses of sequences whose alignment with the frames is not known."""

from jaxloss._sequence.ctc import ctc_loss as ctc_loss
from jaxloss._sequence.ctc import ctc_loss_with_forward_probs as ctc_loss_with_forward_probs
