"""Overlap of segmentations and of boxes."""

from jaxloss._segmentation.boxes import iou_loss as iou_loss
from jaxloss._segmentation.dice import binary_dice_loss as binary_dice_loss
from jaxloss._segmentation.dice import dice_loss as dice_loss
from jaxloss._segmentation.dice import multiclass_generalized_dice_loss as multiclass_generalized_dice_loss
from jaxloss._segmentation.lovasz import lovasz_hinge_loss as lovasz_hinge_loss
from jaxloss._segmentation.lovasz import lovasz_softmax_loss as lovasz_softmax_loss
from jaxloss._segmentation.tversky import focal_tversky_loss as focal_tversky_loss
from jaxloss._segmentation.tversky import jaccard_loss as jaccard_loss
from jaxloss._segmentation.tversky import tversky_loss as tversky_loss
