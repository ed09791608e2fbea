_base_ = "../../_base_/segmentation/mhs_vm_unet_300e.py"
data_root = "data/isic2017"
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
model = dict(backbone=dict(name="mhs_vm_unet_4h", threshold=0.0))
