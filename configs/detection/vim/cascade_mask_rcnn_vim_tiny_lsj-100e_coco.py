# The authors start from rotary ImageNet weights that they did not publish; here from their others.
_base_ = "../../_base_/detection/cascade_mask_rcnn_lsj_100e.py"
model = dict(
    backbone=dict(name="vim_tiny", class_token=False, drop_path_rate=0.1, out_indices=(23,)),
    neck=dict(in_channels=192),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay=0.837))
