# Mamba-YOLO around any of its backbones, and the images it takes: RGB in [0, 1], letterboxed with
# grey 114 on the right and at the bottom.
model = dict(
    type="MambaYolo",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[0.0, 0.0, 0.0],
        std=[255.0, 255.0, 255.0],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        pad_value=114 / 255,  # of normalised pixels
    ),
    backbone=dict(type="StateScanBackbone", out_indices=(1, 2, 3), out_norms=False),
    neck=dict(type="MambaYoloNeck"),
    bbox_head=dict(type="MambaYoloHead"),
    test_cfg=dict(
        score_thr=0.001,
        nms_pre=30000,
        nms=dict(type="nms", iou_threshold=0.7),
        max_per_img=300,
    ),
)
