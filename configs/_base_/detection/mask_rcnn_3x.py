# Mask R-CNN for 36 epochs of COCO at several scales, in batches of 16: MMDetection's recipe for
# Swin.
_base_ = "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py"
custom_imports = dict(imports=["statescan.mm"])
runner_type = "StateScanRunner"
model = dict(backbone=dict(_delete_=True, type="StateScanBackbone", pretrained=True))
optim_wrapper = dict(constructor="TimmOptimWrapperConstructor", paramwise_cfg=dict(_delete_=True))
default_hooks = dict(checkpoint=dict(type="SafeCheckpointHook"))
