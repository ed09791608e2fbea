_base_ = "mhs_vm_unet_4h_isic2018.py"
model = dict(backbone=dict(name="mhs_vm_unet_3h"))
