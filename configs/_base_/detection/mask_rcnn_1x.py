# Mask R-CNN for 12 epochs of COCO in batches of 16: MMDetection's recipe for Swin, as the published
# detectors of most families inherit it.
_base_ = "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py"
custom_imports = dict(imports=["statescan.mm"])
runner_type = "StateScanRunner"
model = dict(backbone=dict(_delete_=True, type="StateScanBackbone", pretrained=True))
optim_wrapper = dict(constructor="TimmOptimWrapperConstructor", paramwise_cfg=dict(_delete_=True))
default_hooks = dict(checkpoint=dict(type="SafeCheckpointHook"))
