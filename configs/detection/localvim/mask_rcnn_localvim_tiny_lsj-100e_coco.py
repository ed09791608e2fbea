_base_ = "../../_base_/detection/mask_rcnn_lsj_100e.py"
model = dict(
    backbone=dict(name="localvim_tiny", drop_path_rate=0.1, out_indices=(19,)),
    neck=dict(in_channels=192),
)
optim_wrapper = dict(optimizer=dict(weight_decay=0.05), clip_grad=dict(max_norm=35))
