# Nuclei against background (DSB2018, 315 training and 65 validation images of 256 to 320 pixels):
# MHS-VM's U-Net at a sixth of its width with a block a stage, for one CPU core. Folders and masks
# come from `tools/convert_dsb2018.py --masks`.
_base_ = "../from_scratch.py"
custom_imports = dict(
    imports=["statescan.mm", "statescan.mm.data.masks", "statescan.mm.models.unet"]
)
default_scope = "mmseg"
data_root = "data/dsb2018_masks"
epochs = 10
size = (192, 192)

loader = dict(num_workers=0)
dataset = dict(
    type="MaskFolders",
    data_root=data_root,
    metainfo=dict(classes=("background", "nucleus"), palette=[[0, 0, 0], [255, 255, 255]]),
)
train_dataloader = dict(
    **loader,
    batch_size=8,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path="train/images", seg_map_path="train/masks"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="CheckMask"),
            dict(type="StretchContrast"),
            dict(type="RandomResize", scale=(256, 256), ratio_range=(0.8, 1.25), keep_ratio=True),
            dict(type="RandomCrop", crop_size=size),
            dict(type="RandomFlip", prob=0.75, direction=["horizontal", "vertical", "diagonal"]),
            dict(type="PackSegInputs"),
        ],
    ),
)
val_dataloader = dict(
    **loader,
    batch_size=1,  # images of several sizes
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path="val/images", seg_map_path="val/masks"),
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="CheckMask"),
            dict(type="StretchContrast"),
            dict(type="PackSegInputs"),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="ForegroundMetric")
test_evaluator = val_evaluator

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor", bgr_to_rgb=True, size=size, mean=[127.5] * 3, std=[127.5] * 3
    ),
    backbone=dict(
        type="StateScanUNet",
        name="mhs_vm_unet_4h",
        num_classes=1,
        dims=(16, 32, 64, 128),
        depths=(1, 1, 1, 1),
        decoder_depths=(1, 1, 1, 1),
        d_state=4,
        init_std=0.1,  # about 1/√inputs: at 0.02 routes of a narrow model hardly differ
        threshold=0.0,
    ),
    decode_head=dict(type="LogitsHead", in_channels=1, num_classes=2),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, end=1, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=0.01,
        begin=1,
        end=epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=epochs, val_interval=2)
