# The authors' routes: serpentine, diagonal, spiral and cross, with attention over routes.
_base_ = "../../_base_/segmentation/mhs_vm_unet_dsb2018.py"
