# No weights were ever published: give model.backbone.checkpoint_path those of an ImageNet training.
# The paper states no stochastic depth; this is VMamba's.
_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="vim2_small", pretrained=False, drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
