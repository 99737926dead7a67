"""Losses with a margin: of decisions, of classes, and of any maximum."""

from jaxloss._margin.all_classes import multi_margin_loss as multi_margin_loss
from jaxloss._margin.all_classes import multilabel_margin_loss as multilabel_margin_loss
from jaxloss._margin.classes import make_fenchel_young_loss as make_fenchel_young_loss
from jaxloss._margin.classes import multiclass_hinge_loss as multiclass_hinge_loss
from jaxloss._margin.classes import multiclass_perceptron_loss as multiclass_perceptron_loss
from jaxloss._margin.classes import multiclass_sparsemax_loss as multiclass_sparsemax_loss
from jaxloss._margin.cosine import margin_softmax_cross_entropy as margin_softmax_cross_entropy
from jaxloss._margin.decisions import hinge_loss as hinge_loss
from jaxloss._margin.decisions import perceptron_loss as perceptron_loss
from jaxloss._margin.decisions import soft_margin_loss as soft_margin_loss
from jaxloss._margin.decisions import sparsemax_loss as sparsemax_loss
from jaxloss._margin.decisions import squared_hinge_loss as squared_hinge_loss
from jaxloss._margin.entmax import entmax_loss as entmax_loss
