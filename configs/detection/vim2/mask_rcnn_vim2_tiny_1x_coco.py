# No weights were ever published: give model.backbone.checkpoint_path those of an ImageNet training.
# The paper states no stochastic depth; this is VMamba's.
_base_ = "../../_base_/detection/mask_rcnn_1x.py"
model = dict(
    backbone=dict(name="vim2_tiny", pretrained=False, drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
