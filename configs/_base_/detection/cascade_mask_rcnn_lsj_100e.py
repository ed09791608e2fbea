# Cascade Mask R-CNN for 100 epochs of COCO with large-scale jitter in batches of 64, as
# ViTDet is trained (100 epochs are 25 of a dataset repeated four times), with MMDetection's heads.
_base_ = [
    "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py",
    "mmdet::common/lsj-100e_coco-instance.py",
]
custom_imports = dict(imports=["statescan.mm"])
runner_type = "StateScanRunner"
model = dict(
    data_preprocessor=dict(
        batch_augments=[dict(type="BatchFixedSizePad", size=(1024, 1024), pad_mask=True)]
    ),
    backbone=dict(_delete_=True, type="StateScanBackbone", pretrained=True),
    neck=dict(_delete_=True, type="SimplePyramid", num_outs=5),
    rpn_head=dict(num_convs=2),
)
optim_wrapper = dict(
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
)
default_hooks = dict(checkpoint=dict(type="SafeCheckpointHook"))
