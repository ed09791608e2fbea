# MHS-VM's U-Net for 300 epochs in batches of 32 images of 256 pixels: what its authors train for
# ISIC 2017 and 2018. The data folder has train/{images,masks} and val/{images,masks}. The authors
# draw one angle for a whole training; here every rotation has its own. They keep the epoch of the
# least validation loss, here it is that of the best Dice.
_base_ = "../runtime.py"
custom_imports = dict(
    imports=["statescan.mm", "statescan.mm.data.masks", "statescan.mm.models.unet"]
)
default_scope = "mmseg"
runner_type = "StateScanRunner"
data_root = "data/isic2018"
size = (256, 256)

loader = dict(batch_size=32, num_workers=4)
train_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="MaskFolders",
        data_root=data_root,
        data_prefix=dict(img_path="train/images", seg_map_path="train/masks"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="CheckMask"),
            dict(type="StretchContrast"),
            dict(type="RandomFlip", prob=0.75, direction=["horizontal", "vertical", "diagonal"]),
            dict(type="RandomRotate", prob=0.5, degree=(0.0, 360.0), seg_pad_val=0),
            dict(type="Resize", scale=size, keep_ratio=False),
            dict(type="PackSegInputs"),
        ],
    ),
)
val_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="MaskFolders",
        data_root=data_root,
        data_prefix=dict(img_path="val/images", seg_map_path="val/masks"),
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="CheckMask"),
            dict(type="StretchContrast"),
            dict(type="ResizeWithMask", scale=size, keep_ratio=False),
            dict(type="PackSegInputs"),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="ForegroundMetric")
test_evaluator = val_evaluator

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor", bgr_to_rgb=True, size=size),
    backbone=dict(type="StateScanUNet", num_classes=1, drop_path_rate=0.2),
    decode_head=dict(type="LogitsHead", in_channels=1, num_classes=2),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.01),
)
# Down to 1e-5 in 50 epochs, up again in 50, and so on three times.
param_scheduler = [dict(type="CosineAnnealingLR", T_max=50, eta_min=1e-5, end=300)]
train_cfg = dict(max_epochs=300, val_begin=101, val_interval=1)
default_hooks = dict(
    checkpoint=dict(
        _delete_=True,
        type="SafeCheckpointHook",
        max_keep_ckpts=1,
        save_best="Dice",
        rule="greater",
    )
)
