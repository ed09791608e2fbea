# RetinaNet for 12 epochs of COCO in batches of 16, with AdamW.
_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["statescan.mm"])
runner_type = "StateScanRunner"
model = dict(backbone=dict(_delete_=True, type="StateScanBackbone", pretrained=True))
optim_wrapper = dict(
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=35, norm_type=2),
)
default_hooks = dict(checkpoint=dict(type="SafeCheckpointHook"))
