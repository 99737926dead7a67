"""Binary and multi-label losses, on logits."""

from jaxloss._binary.asymmetric import asymmetric_loss as asymmetric_loss
from jaxloss._binary.cross_entropy import sigmoid_binary_cross_entropy as sigmoid_binary_cross_entropy
from jaxloss._binary.focal import sigmoid_focal_loss as sigmoid_focal_loss
from jaxloss._binary.multilabel import multilabel_soft_margin_loss as multilabel_soft_margin_loss
