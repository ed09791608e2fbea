# UPerNet for 160k iterations of ADE20K at 512 pixels in batches of 16: MMSegmentation's recipe for
# Swin, as the published segmenters of most families inherit it.
_base_ = "mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py"
custom_imports = dict(imports=["statescan.mm"])
runner_type = "StateScanRunner"
model = dict(backbone=dict(_delete_=True, type="StateScanBackbone", pretrained=True))
optim_wrapper = dict(constructor="TimmOptimWrapperConstructor", paramwise_cfg=dict(_delete_=True))
default_hooks = dict(checkpoint=dict(type="SafeCheckpointHook"))
