_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="msvmamba_v3_base", drop_path_rate=0.5))
# The authors' 3e-4 for 512 images, 6e-4 for 1024.
optim_wrapper = dict(optimizer=dict(lr=6e-4))
