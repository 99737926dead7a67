"""Contrastive and metric learning: embeddings that should be close, and embeddings that should not."""

from jaxloss._contrastive.groups import circle_loss as circle_loss
from jaxloss._contrastive.groups import ntxent as ntxent
from jaxloss._contrastive.groups import supervised_contrastive_loss as supervised_contrastive_loss
from jaxloss._contrastive.in_batch import clip_loss as clip_loss
from jaxloss._contrastive.in_batch import info_nce_loss as info_nce_loss
from jaxloss._contrastive.in_batch import n_pair_loss as n_pair_loss
from jaxloss._contrastive.pairs import contrastive_loss as contrastive_loss
from jaxloss._contrastive.pairs import cosine_embedding_loss as cosine_embedding_loss
from jaxloss._contrastive.redundancy import barlow_twins_loss as barlow_twins_loss
from jaxloss._contrastive.redundancy import vicreg_loss as vicreg_loss
from jaxloss._contrastive.siglip import siglip_loss as siglip_loss
from jaxloss._contrastive.signs import hinge_embedding_loss as hinge_embedding_loss
from jaxloss._contrastive.signs import margin_ranking_loss as margin_ranking_loss
from jaxloss._contrastive.triplet import triplet_margin_loss as triplet_margin_loss
