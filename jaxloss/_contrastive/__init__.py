"""Contrastive and metric learning: embeddings that should be close, and embeddings that should not."""

from jaxloss._contrastive.in_batch import clip_loss as clip_loss
from jaxloss._contrastive.in_batch import info_nce_loss as info_nce_loss
from jaxloss._contrastive.in_batch import n_pair_loss as n_pair_loss
from jaxloss._contrastive.siglip import siglip_loss as siglip_loss
