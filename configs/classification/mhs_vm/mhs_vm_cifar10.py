# A small MHS-VM encoder with the authors' four heads on CIFAR-10.
_base_ = "../../_base_/cifar10.py"

model = dict(
    backbone=dict(name="mhs_vm_4h", depths=(1, 1, 2, 1), dims=(32, 64, 96, 128), d_state=4)
)
