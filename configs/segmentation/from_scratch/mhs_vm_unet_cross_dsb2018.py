# The same U-Net with as many parameters and the plain scan: the four directions of VMamba in every
# head, summed without attention.
_base_ = "../../_base_/segmentation/mhs_vm_unet_dsb2018.py"
model = dict(backbone=dict(routes="cross", route_attention=False))
