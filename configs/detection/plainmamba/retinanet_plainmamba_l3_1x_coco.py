# Published with a ViT-Adapter around the backbone; here with ViTDet's simple pyramid, so that its
# figures are not to be expected.
_base_ = "../../_base_/detection/retinanet_1x.py"
model = dict(
    backbone=dict(name="plainmamba_l3", drop_path_rate=0.3, out_indices=(35,)),
    neck=dict(_delete_=True, type="SimplePyramid", in_channels=448, num_outs=5, start=1),
)
